use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Phase, Progress, Waited, progress};
use crate::ids::{MachineId, Revision, UnitUid};
use crate::records::{Order, StateRow, UnitRecord, Versioned};
use crate::requests::change::Verb;
use crate::requests::content::Content;
use crate::requests::testing::{after, name};
use crate::time::Timestamp;
use crate::world::{Event, World};

const NOW: Timestamp = Timestamp(50_000);

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
fn at<T>(revision: i64, value: T) -> Option<Versioned<T>> {
    Some(Versioned { value, created: Revision(1), modified: Revision(revision) })
}
fn machine(id: &str) -> MachineId {
    MachineId::parse(id).unwrap()
}

/// A cluster with one unit, whose record was written at revision 10.
struct Scene {
    world: World,
    unit: UnitRecord,
    is_leaving: bool,
}

impl Scene {
    fn of(unit: UnitRecord) -> Scene {
        let mut world = World::default();
        world.apply(Event::Cluster(at(1, of(json!({"id": "c", "epoch": 1})))));
        world.apply(Event::Unit(name("a.service"), at(10, unit.clone())));
        Scene { world, unit, is_leaving: false }
    }

    fn global(verbs: &[Verb]) -> Scene {
        let text = b"[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\nMachineMetadata=r=1\n";
        let content = Content::judge(&name("a.service"), text).unwrap();
        let mut unit = after(verbs);
        unit.last_good.requirements = content.requirements;
        Scene::of(unit)
    }

    fn present(mut self, id: &str) -> Scene {
        let record = json!({"machine": id, "boot": "b", "nonce": "n", "agent_ttl": 15_000, "since": 1,
                            "metadata": {"r": if id.starts_with('x') { "2" } else { "1" }}});
        self.world.apply(Event::Machine(machine(id), at(2, of(json!({})))));
        self.world.apply(Event::Presence(machine(id), at(2, of(record))));
        self
    }

    fn placed(mut self, judged: i64, on: Option<&str>) -> Scene {
        let code = if on.is_some() { "placed" } else { "unplaceable" };
        let refused = json!([{"code": "metadata", "machines": 1, "sample": [["m1", "no"]]}]);
        let decision = json!({"judged": judged, "reason": {"code": code}, "refused": refused, "at": 7});
        let record = json!({"uid": self.unit.uid, "machine": on, "decision": decision});
        self.world.apply(Event::Placement(name("a.service"), at(11, of(record))));
        self
    }

    fn order(mut self, id: &str, sequence: u64, wanted: &str) -> Scene {
        let placed = self.unit.placed();
        let record: Order = of(json!({
            "number": number(sequence), "uid": self.unit.uid, "generation": placed.generation,
            "content": placed.content, "unit_hash": placed.unit_hash, "run_hash": placed.run_hash,
            "wanted": wanted, "counters": self.unit.counters, "reason": {"code": "placed"}, "at": 8,
        }));
        self.world.apply(Event::Order(machine(id), name("a.service"), at(12, record)));
        self
    }

    fn row(mut self, id: &str, applied: u64, row: Value) -> Scene {
        let mut fields = json!({
            "uid": self.unit.uid, "applied": number(applied), "wanted": "launched",
            "load": "loaded", "active": "active", "sub": "running", "invocation": "i",
        });
        let Value::Object(row) = row else { panic!("{row}") };
        fields.as_object_mut().unwrap().extend(row);
        let row: StateRow = of(fields);
        self.world.apply(Event::State(machine(id), name("a.service"), at(13, row)));
        self
    }

    fn judge(&self) -> Progress {
        let waited = Waited {
            unit: name("a.service"),
            uid: Some(self.unit.uid.clone()),
            revision: Some(Revision(10)),
            is_leaving: self.is_leaving,
        };
        progress(&self.world, &waited, NOW)
    }

    fn phase(&self) -> (Phase, bool, bool) {
        let progress = self.judge();
        (progress.phase, progress.is_done, progress.is_failed)
    }
}

fn number(sequence: u64) -> String {
    format!("1-7-{sequence}")
}

fn launched() -> Scene {
    Scene::of(after(&[Verb::Start])).present("m1")
}

#[test]
fn a_decision_counts_only_if_it_judged_the_record_or_a_later_one() {
    assert_eq!(launched().phase(), (Phase::WaitingForEngine, false, false));
    assert_eq!(launched().placed(9, None).phase(), (Phase::WaitingForEngine, false, false));
    let unplaceable = launched().placed(10, None).judge();
    assert_eq!(unplaceable.phase, Phase::Unplaceable);
    assert_eq!(unplaceable.refused[0].code, "metadata");
}

#[test]
fn an_order_is_done_when_the_row_carries_its_number_and_the_unit_is_active() {
    let placed = || launched().placed(10, Some("m1")).order("m1", 3, "launched");
    assert_eq!(placed().phase(), (Phase::Placed, false, false));
    assert_eq!(placed().row("m1", 2, json!({})).phase(), (Phase::Placed, false, false));
    assert_eq!(placed().row("m1", 2, json!({"phase": "starting"})).phase(), (Phase::Starting, false, false));
    assert_eq!(placed().row("m1", 3, json!({})).phase(), (Phase::Done, true, false));
    assert_eq!(placed().row("m1", 4, json!({})).phase(), (Phase::Done, true, false));
    let failed = json!({"active": "failed", "sub": "failed", "result": "exit-code", "exit_status": 3});
    let failed = placed().row("m1", 3, failed).judge();
    assert!(failed.is_failed && failed.reason.text.contains("exit-code, status 3"), "{failed:?}");
}

#[test]
fn what_a_machine_said_in_its_last_boot_does_not_count() {
    let placed = || launched().placed(10, Some("m1")).order("m1", 3, "launched");
    assert_eq!(placed().row("m1", 3, json!({"boot": "b"})).phase(), (Phase::Done, true, false));
    assert_eq!(placed().row("m1", 3, json!({"boot": "the-last"})).phase(), (Phase::Placed, false, false));
}

#[test]
fn an_order_from_before_the_last_request_does_not_count() {
    let mut scene = launched().placed(10, Some("m1")).order("m1", 3, "launched").row("m1", 3, json!({}));
    scene.unit = after(&[Verb::Start, Verb::Restart]);
    scene.world.apply(Event::Unit(name("a.service"), at(10, scene.unit.clone())));
    assert_eq!(scene.phase().0, Phase::WaitingForEngine);
}

#[test]
fn what_ran_and_ended_well_is_done_and_what_never_ran_says_why() {
    let with =
        |row: Value| launched().placed(10, Some("m1")).order("m1", 3, "launched").row("m1", 3, row).judge();
    let ended = json!({"active": "inactive", "sub": "dead", "result": "success"});
    assert!(with(ended).is_done);
    let skipped = json!({"active": "inactive", "sub": "dead", "invocation": ""});
    assert_eq!(with(skipped).reason.code, "skipped");
    let error = json!({"code": "start-dependency", "text": "a unit that it requires failed"});
    let refused = json!({"active": "inactive", "sub": "dead", "invocation": "", "last_error": error});
    assert!(with(refused).is_failed);
    let loop_ = json!({"active": "activating", "sub": "auto-restart", "result": "exit-code", "restarts": 4});
    assert_eq!(with(loop_).reason.code, "restarting");
}

#[test]
fn a_refusal_is_not_the_end_because_the_engine_looks_for_another_machine() {
    let refused =
        json!({"phase": "refused", "refused": {"number": number(3), "reason": {"code": "shadowed"}}});
    let progress = launched().placed(10, Some("m1")).order("m1", 3, "launched").row("m1", 2, refused).judge();
    assert_eq!((progress.phase, progress.is_failed), (Phase::Placed, false));
    assert_eq!(progress.reason.code, "shadowed");
}

#[test]
fn p4_a_stop_without_a_place_is_not_done_while_a_machine_refuses_to_let_go() {
    let scene = || Scene::of(after(&[Verb::Start, Verb::Stop])).present("m1").placed(10, None);
    assert_eq!(scene().phase(), (Phase::Unplaceable, false, false));
    let refused =
        json!({"phase": "refused", "refused": {"number": number(3), "reason": {"code": "stale-order"}}});
    let still = scene().order("m1", 3, "gone").row("m1", 2, refused).judge();
    assert_eq!((still.phase, still.is_done, still.active.as_str()), (Phase::Stopping, false, "active"));
    assert_eq!(still.reason.code, "stale-order");
}

#[test]
fn a_unit_on_a_machine_that_is_away_is_never_done() {
    let scene = Scene::of(after(&[Verb::Start])).placed(10, Some("m1")).order("m1", 3, "launched");
    let progress = scene.row("m1", 3, json!({})).judge();
    assert_eq!((progress.phase, progress.is_done), (Phase::Placed, false));
    assert_eq!(progress.reason.code, "machine-lost");
}

#[test]
fn a_destroy_is_done_when_every_present_machine_has_acknowledged_and_names_the_absent() {
    let mut scene = Scene::of(after(&[Verb::Start, Verb::Destroy])).present("m1");
    scene = scene.order("m1", 3, "launched").order("m2", 3, "gone");
    assert_eq!(scene.phase(), (Phase::WaitingForEngine, false, false));
    scene = scene.order("m1", 4, "gone");
    assert_eq!(scene.phase(), (Phase::Stopping, false, false));
    scene.world.apply(Event::Order(machine("m1"), name("a.service"), None));
    let done = scene.judge();
    assert!(done.is_done && done.absent == [machine("m2")], "{done:?}");
    scene.world.apply(Event::Unit(name("a.service"), None));
    assert_eq!(scene.phase(), (Phase::Gone, false, false));
    scene.is_leaving = true;
    assert_eq!(scene.phase(), (Phase::Gone, true, false));
}

#[test]
fn another_life_of_the_name_is_not_the_one_waited_for() {
    let mut scene = launched();
    scene.unit.uid = UnitUid::parse("older").unwrap();
    assert_eq!(scene.phase().0, Phase::Gone);
}

#[test]
fn an_inactive_unit_without_orders_is_done_at_once() {
    assert_eq!(Scene::of(after(&[Verb::Submit])).present("m1").phase(), (Phase::Done, true, false));
}

#[test]
fn a_global_unit_is_done_when_every_present_machine_that_fits_is() {
    let one =
        || Scene::global(&[Verb::Start]).present("m1").order("m1", 3, "launched").row("m1", 3, json!({}));
    assert_eq!(one().phase(), (Phase::Done, true, false));
    let waiting = one().present("m2").judge();
    assert_eq!((waiting.phase, waiting.machines.len()), (Phase::WaitingForEngine, 2));
    let elsewhere = one().present("x1").judge();
    assert!(elsewhere.is_done && elsewhere.refused[0].code == "metadata", "{elsewhere:?}");
    let absent = one().order("m3", 3, "launched").judge();
    assert!(absent.is_done && absent.absent == [machine("m3")], "{absent:?}");
    let failed = one().present("m2").order("m2", 3, "launched").row("m2", 3, json!({"active": "failed"}));
    assert_eq!(failed.phase(), (Phase::Failed, false, true));
}

#[test]
fn a_global_unit_that_fits_nowhere_is_unplaceable() {
    let progress = Scene::global(&[Verb::Start]).present("x1").judge();
    assert_eq!(progress.phase, Phase::Unplaceable);
    assert_eq!(progress.refused[0].sample[0].0, machine("x1"));
}
