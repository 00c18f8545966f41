//! placeholder
pub(crate) fn run(_p: lexopt::Parser) -> Result<(), String> { Err("none".into()) }
