//! In which order the steps of a pass are carried out: what ends before what begins, and starts in the order that the
//! units themselves ask for.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::{UnitName, expand_specifiers};

use super::{Step, TextFacts};

/// Sorts the steps of a pass. Steps of one unit keep their order.
pub(super) fn sort(steps: &mut [(UnitName, Step)], facts: &BTreeMap<UnitName, &TextFacts>) {
    let starting: BTreeSet<UnitName> =
        steps.iter().filter(|(_, step)| *step == Step::Start).map(|(name, _)| name.clone()).collect();
    let ranks = ranks(&starting, facts);
    steps.sort_by_key(|(name, step)| (step.phase(), ranks.get(name).copied().unwrap_or(0)));
}

/// Position of each starting unit: before those that come after it. A circle is cut at its first name.
fn ranks(starting: &BTreeSet<UnitName>, facts: &BTreeMap<UnitName, &TextFacts>) -> BTreeMap<UnitName, usize> {
    // For each unit those that have to be asked for earlier.
    let mut earlier: BTreeMap<&UnitName, BTreeSet<&UnitName>> = BTreeMap::new();
    for name in starting {
        let Some(facts) = facts.get(name) else { continue };
        let among = |list: &[String]| -> Vec<&UnitName> {
            let expanded = list.iter().map(|text| expand_specifiers(text, name));
            expanded.filter_map(|text| starting.get(text.as_str())).filter(|other| *other != name).collect()
        };
        earlier.entry(name).or_default().extend(among(&facts.after));
        for other in among(&facts.before) {
            earlier.entry(other).or_default().insert(name);
        }
    }
    let mut ranks = BTreeMap::new();
    let mut open = BTreeSet::new();
    for name in starting {
        visit(name, &earlier, &mut open, &mut ranks);
    }
    ranks
}

fn visit<'a>(
    name: &'a UnitName,
    earlier: &BTreeMap<&'a UnitName, BTreeSet<&'a UnitName>>,
    open: &mut BTreeSet<&'a UnitName>,
    ranks: &mut BTreeMap<UnitName, usize>,
) {
    // An explicit stack: chains may be as long as a machine has units.
    let mut stack = vec![(name, false)];
    while let Some((name, is_expanded)) = stack.pop() {
        if ranks.contains_key(name) {
            continue;
        }
        if is_expanded {
            ranks.insert(name.clone(), ranks.len());
        } else if open.insert(name) {
            stack.push((name, true));
            let first = earlier.get(name).into_iter().flatten().rev();
            stack.extend(first.map(|other| (*other, false)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UnitName {
        text.parse().unwrap()
    }

    fn sorted(facts: &[(&str, TextFacts)]) -> Vec<String> {
        let mut steps: Vec<(UnitName, Step)> =
            facts.iter().map(|(unit, _)| (name(unit), Step::Start)).collect();
        let facts: BTreeMap<UnitName, &TextFacts> =
            facts.iter().map(|(unit, facts)| (name(unit), facts)).collect();
        sort(&mut steps, &facts);
        steps.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    fn after(list: &[&str]) -> TextFacts {
        TextFacts { after: list.iter().map(|text| (*text).to_owned()).collect(), ..TextFacts::default() }
    }

    #[test]
    fn a_unit_is_asked_for_before_those_that_come_after_it() {
        let before = TextFacts { before: vec!["b.service".into()], ..TextFacts::default() };
        let got = sorted(&[
            ("a.service", after(&["c.service"])),
            ("b.service", after(&[])),
            ("c.service", after(&["d@1.service", "elsewhere.service"])),
            ("d@1.service", after(&[])),
            ("z.service", before),
        ]);
        let position = |unit: &str| got.iter().position(|name| name == unit);
        assert!(
            position("d@1.service") < position("c.service") && position("c.service") < position("a.service")
        );
        assert!(position("z.service") < position("b.service"));
    }

    #[test]
    fn a_circle_is_cut_and_loses_nobody() {
        let got = sorted(&[
            ("a.service", after(&["b.service"])),
            ("b.service", after(&["a.service"])),
            ("c.service", after(&["a.service"])),
        ]);
        assert_eq!(got.len(), 3);
        assert_eq!(got.last().map(String::as_str), Some("c.service"));
    }
}
