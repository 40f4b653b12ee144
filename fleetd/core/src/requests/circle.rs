//! Circles of `MachineOf=`: units that would wait for each other's machine for ever.

use std::collections::BTreeSet;

use unit_files::UnitName;

/// The path of a circle through `name`, which begins and ends with it, if `machine_of` closes one. `of` tells what the
/// other units name.
#[must_use]
pub fn circle<'a>(
    name: &UnitName,
    machine_of: &[String],
    of: impl Fn(&str) -> &'a [String],
) -> Option<Vec<String>> {
    let start = name.as_str();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    // Depth first; the stack holds whole paths, which stay short because every unit is entered once.
    let mut stack: Vec<Vec<String>> =
        machine_of.iter().rev().map(|peer| vec![start.to_owned(), peer.clone()]).collect();
    while let Some(path) = stack.pop() {
        let last = path.last().map_or(start, String::as_str);
        if last == start {
            return Some(path);
        }
        if !seen.insert(last.to_owned()) {
            continue;
        }
        for peer in of(last).iter().rev() {
            let mut longer = path.clone();
            longer.push(peer.clone());
            stack.push(longer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::requests::testing::name;

    fn search(unit: &str, peers: &[&str], others: &[(&str, &[&str])]) -> Option<Vec<String>> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let others: BTreeMap<&str, Vec<String>> =
            others.iter().map(|(name, list)| (*name, own(list))).collect();
        circle(&name(unit), &own(peers), |peer| others.get(peer).map_or(&[], Vec::as_slice))
    }

    #[test]
    fn a_circle_is_named_with_its_path() {
        let others: &[(&str, &[&str])] = &[("b.service", &["c.service"]), ("c.service", &["a.service"])];
        let path = search("a.service", &["b.service"], others).unwrap();
        assert_eq!(path, ["a.service", "b.service", "c.service", "a.service"]);
        assert_eq!(search("a.service", &["a.service"], &[]).unwrap().len(), 2);
    }

    #[test]
    fn a_diamond_and_a_circle_of_others_are_not_this_units_circle() {
        let diamond: &[(&str, &[&str])] = &[("b.service", &["d.service"]), ("c.service", &["d.service"])];
        assert_eq!(search("a.service", &["b.service", "c.service"], diamond), None);
        let others: &[(&str, &[&str])] = &[("b.service", &["c.service"]), ("c.service", &["b.service"])];
        assert_eq!(search("a.service", &["b.service"], others), None);
    }
}
