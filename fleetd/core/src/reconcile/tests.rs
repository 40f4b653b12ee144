//! The rules of the agent, one test each.

use super::testing::*;
use super::*;

#[test]
fn placeholder_first_start() {
    let mut m = Model::new();
    m.give("a.service", order(1, crate::records::Wanted::Launched));
    m.settle();
    assert!(m.is_active("a.service"));
    assert_eq!(m.row("a.service").applied, Some(number(1)));
}
