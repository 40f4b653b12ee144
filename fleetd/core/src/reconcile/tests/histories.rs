//! Random histories of orders, crashes, boots and local acts: the promises hold after each, and what was ordered last
//! is what is there in the end.

use proptest::prelude::*;

use super::super::testing::*;
use super::super::*;
use crate::ids::UnitUid;
use crate::records::{Counters, Wanted};

const UNITS: [(&str, Manner); 4] = [
    ("good.service", Manner::RunsOn),
    ("once.service", Manner::Oneshot),
    ("fails.service", Manner::Fails),
    ("other.service", Manner::RunsOn),
];

#[derive(Clone, Debug)]
enum Act {
    Order { unit: usize, wanted: Wanted, raise: Raise, text: u64, new_uid: bool },
    Pass,
    Jobs,
    Die(Dies),
    Reboot,
    Admin { unit: usize, kind: JobKind },
    LoseOrder(usize),
    Wait,
}

#[derive(Clone, Copy, Debug)]
enum Raise {
    Nothing,
    Start,
    Stop,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let unit = 0..UNITS.len();
    let wanted = prop_oneof![Just(Wanted::Launched), Just(Wanted::Loaded), Just(Wanted::Gone)];
    let raise =
        prop_oneof![Just(Raise::Nothing), Just(Raise::Start), Just(Raise::Stop), Just(Raise::Restart)];
    let order = (unit.clone(), wanted, raise, 1..4u64, any::<bool>())
        .prop_map(|(unit, wanted, raise, text, new_uid)| Act::Order { unit, wanted, raise, text, new_uid });
    let dies = prop_oneof![Just(Dies::BeforeRecords), (0..4usize).prop_map(Dies::AfterSteps)];
    let kind = prop_oneof![Just(JobKind::Start), Just(JobKind::Stop)];
    let act = prop_oneof![
        4 => order,
        4 => Just(Act::Pass),
        4 => Just(Act::Jobs),
        2 => dies.prop_map(Act::Die),
        1 => Just(Act::Reboot),
        1 => (unit.clone(), kind).prop_map(|(unit, kind)| Act::Admin { unit, kind }),
        1 => unit.prop_map(Act::LoseOrder),
        1 => Just(Act::Wait),
    ];
    prop::collection::vec(act, 1..40)
}

/// What the registry would hold of a unit: counters only rise, and a lost order keeps them.
#[derive(Clone, Debug, Default)]
struct Asked {
    counters: Counters,
    lives: u64,
}

struct History {
    m: Model,
    asked: Vec<Asked>,
    sequence: u64,
}

impl History {
    fn new() -> History {
        let mut m = Model::new();
        m.manners = UNITS.iter().map(|(unit, manner)| (name(unit), *manner)).collect();
        History { m, asked: vec![Asked::default(); UNITS.len()], sequence: 0 }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Order { unit, wanted, raise, text, new_uid } => {
                self.sequence += 1;
                let asked = &mut self.asked[*unit];
                asked.lives += u64::from(*new_uid);
                match raise {
                    Raise::Nothing => {}
                    Raise::Start => asked.counters.start += 1,
                    Raise::Stop => asked.counters.stop += 1,
                    Raise::Restart => asked.counters.restart += 1,
                }
                let uid = UnitUid::parse(&format!("u{}", asked.lives)).unwrap();
                let order = Order { counters: asked.counters, uid, ..order(self.sequence, *wanted) };
                let order = with_text(order, *text);
                let (unit, manner) = UNITS[*unit];
                self.m.give(unit, if manner == Manner::Oneshot { oneshot(order) } else { order });
            }
            Act::Pass => drop(self.m.pass(None)),
            Act::Jobs => drop(self.m.run_jobs()),
            Act::Die(dies) => drop(self.m.pass(Some(*dies))),
            Act::Reboot => self.m.reboot(),
            Act::Admin { unit, kind } => self.m.admin(UNITS[*unit].0, *kind),
            Act::LoseOrder(unit) => drop(self.m.orders.remove(UNITS[*unit].0)),
            Act::Wait => self.m.now += 20_000,
        }
    }

    /// Every stop that the last pass asked for has an order that asks for it and was not carried out before.
    fn check_stops(&self, before: &std::collections::BTreeMap<UnitName, DiskRecord>) {
        for (unit, _) in self.m.last.steps.iter().filter(|(_, step)| *step == Step::Stop) {
            let order =
                &self.m.orders.get(unit).unwrap_or_else(|| panic!("{unit} stopped without an order")).value;
            let Some(applied) = before.get(unit).and_then(|record| record.applied.as_ref()) else { continue };
            assert!(
                order.number > applied.number,
                "{unit}: stopped by an order that was carried out already"
            );
            let is_asked = order.wanted == Wanted::Gone
                || order.uid != applied.uid
                || order.run_hash != applied.run_hash
                || order.counters.stop > applied.counters.stop
                || order.counters.restart > applied.counters.restart
                || applied.boot != boot(self.m.boots)
                || applied.wanted == Wanted::Gone
                || before.get(unit).is_some_and(|record| record.intent.is_some());
            assert!(is_asked, "{unit}: {order:?} does not ask for a stop after {applied:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p1_no_history_stops_a_unit_without_a_newer_order_that_says_so(acts in acts()) {
        let mut history = History::new();
        for act in &acts {
            let before = history.m.disk.clone();
            history.act(act);
            if matches!(act, Act::Pass | Act::Die(_)) {
                history.check_stops(&before);
            }
        }
    }

    #[test]
    fn every_history_ends_with_what_was_ordered_last(acts in acts()) {
        let mut history = History::new();
        for act in &acts {
            history.act(act);
        }
        history.m.now += 2_000_000;
        history.m.settle();
        history.m.now += 2_000_000;
        history.m.settle();
        prop_assert!(history.m.last.steps.is_empty());
        for (unit, order) in &history.m.orders {
            let row = history.m.row(unit.as_str());
            prop_assert_eq!(row.applied, Some(order.value.number), "{}: {:?}", unit, row);
            prop_assert!(history.m.files.contains_key(unit));
            if order.value.wanted == Wanted::Gone {
                return Err(TestCaseError::fail("a gone was not acknowledged"));
            }
        }
    }

    /// Orders, crashes and passes in any order, one boot, nobody else's acts: each edge is one run.
    #[test]
    fn p3_a_oneshot_runs_exactly_once_for_each_edge_wherever_the_agent_dies(
        deaths in prop::collection::vec((prop_oneof![
            Just(None), Just(Some(Dies::BeforeRecords)), (0..4usize).prop_map(|n| Some(Dies::AfterSteps(n)))
        ], any::<bool>()), 0..12),
        edges in 1..4u64,
    ) {
        let mut m = Model::new();
        m.manners.insert(name("once.service"), Manner::Oneshot);
        for edge in 1..=edges {
            let counters = Counters { restart: edge, ..Counters::default() };
            m.give("once.service", oneshot(Order { counters, ..order(edge, Wanted::Launched) }));
            for (dies, jobs) in &deaths {
                m.pass(*dies);
                if *jobs {
                    m.run_jobs();
                    if dies.is_some() {
                        m.crash();
                    }
                }
            }
            m.settle();
            prop_assert_eq!(m.runs("once.service") as u64, edge);
        }
    }
}
