//! Live nodes with a stub for a driver: each test runs one in a namespace of its own.

mod callers;
mod calls;
mod ends;
mod files;
mod library;
mod runs;
mod signals;
mod support;
mod watched;
