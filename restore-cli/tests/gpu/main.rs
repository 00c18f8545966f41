//! Trees with GPU state, dumped and restored on emulated nodes: there and back in every layout,
//! upstream's defects, every fault, every legal order.
//!
//! The test is an orchestrator: what happens on a node is a list of parts, done by this program
//! again inside `thaw node run` (`node`). Nothing here knows how thaw does its work.

#[path = "../support/mod.rs"]
mod support;

mod cycle;
mod defects;
mod explore;
mod faults;
mod give_up;
mod node;
mod property;
mod report;
mod roundtrip;
mod shapes;

#[test]
fn inside_a_node() {
    node::carry_out();
}
