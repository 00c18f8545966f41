//! The match of saved GPUs to a host's, from outside: against brute force, rule by rule,
//! and as tables.

mod brute;
mod property;
mod rule;
mod tables;
mod world;
