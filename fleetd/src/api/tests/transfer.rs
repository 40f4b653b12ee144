//! A cluster that is made from a document of another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fleet_api::paths;
use fleet_api::v2::{ClusterView, HealthView, ImportReport, ImportRequest, JoinReport, JoinRequest, Verb};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, MachineId};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::Asked;
use serde_json::json;
use tokio::time::timeout;

use super::{Lab, Limits, OWN, name};
use crate::api::Failure;
use crate::api::ports::Joiner;

const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";

/// What a machine's disk says of the cluster that it belongs to.
struct Disk(Mutex<Option<(ClusterId, Epoch)>>);

#[async_trait]
impl Joiner for Disk {
    fn member(&self) -> Option<(ClusterId, Epoch)> {
        self.0.lock().unwrap().clone()
    }

    async fn belong(&self, cluster: ClusterId, epoch: Epoch) -> Result<(), Failure> {
        *self.0.lock().unwrap() = Some((cluster, epoch));
        Ok(())
    }

    async fn join(&self, _: &JoinRequest, _: &Asked) -> Result<JoinReport, Failure> {
        Err(Failure::bad_request("not asked for here"))
    }
}

/// A disk whose session makes a cluster as soon as it was read for the first time.
struct Late {
    disk: Disk,
    was_read: AtomicBool,
}

#[async_trait]
impl Joiner for Late {
    fn member(&self) -> Option<(ClusterId, Epoch)> {
        if self.was_read.swap(true, Ordering::Relaxed) { self.disk.member() } else { None }
    }

    async fn belong(&self, cluster: ClusterId, epoch: Epoch) -> Result<(), Failure> {
        self.disk.belong(cluster, epoch).await
    }

    async fn join(&self, request: &JoinRequest, asked: &Asked) -> Result<JoinReport, Failure> {
        self.disk.join(request, asked).await
    }
}

#[tokio::test]
async fn an_import_that_a_new_cluster_of_the_machine_overtakes_is_repeated_and_the_machine_belongs_to_the_backups()
 {
    let (_from, document) = backup().await;
    let disk = Disk(Mutex::new(Some((ClusterId::parse("ours").unwrap(), Epoch(4)))));
    let late = Arc::new(Late { disk, was_read: AtomicBool::new(false) });
    let joiner = Arc::clone(&late);
    let lab = Lab::with(Limits::default(), |options| options.joiner = Some(joiner)).await;
    let refused = import(&lab, &document, true).await.unwrap_err().to_string();
    assert!(refused.contains("send the same request again"), "{refused}");
    assert!(lab.registry.export().await.unwrap().is_none(), "nobody takes part in it yet");
    lab.fake.session.send_modify(|session| {
        session.cluster = Some((ClusterId::parse("backup").unwrap(), Epoch(5)));
    });
    assert!(import(&lab, &document, true).await.unwrap().done);
    assert_eq!(late.member(), Some((ClusterId::parse("backup").unwrap(), Epoch(4))));
}

/// A machine whose disk says that it belongs to `cluster`, at epoch 4.
async fn member_of(cluster: &str) -> (Lab, Arc<Disk>) {
    let member = (ClusterId::parse(cluster).unwrap(), Epoch(4));
    let disk = Arc::new(Disk(Mutex::new(Some(member))));
    let joiner = Arc::clone(&disk);
    let lab = Lab::with(Limits::default(), |options| options.joiner = Some(joiner)).await;
    (lab, disk)
}

async fn import(
    lab: &Lab,
    document: &str,
    yes: bool,
) -> Result<ImportReport, fleet_api::client::ClientError> {
    let request = ImportRequest { document: document.to_owned(), yes, by: "operator".to_owned() };
    lab.client().post::<ImportReport>(paths::CLUSTER_IMPORT, &request).await
}

/// An export of cluster `backup`, with a.service and b.service running on the machine.
async fn backup() -> (Lab, String) {
    let from = Lab::start().await;
    for (sequence, unit) in [(1, "a.service"), (2, "b.service")] {
        from.one(&format!("r{sequence}"), Verb::Start, unit, Some(TEXT)).await;
        from.place(unit, OWN, sequence, Some("active")).await;
    }
    let document = from.registry.export().await.unwrap().unwrap().to_document();
    let document = document.replace("\"ours\"", "\"backup\"").replace("\\\"ours\\\"", "\\\"backup\\\"");
    (from, document)
}

#[tokio::test]
async fn a_backup_is_previewed_and_then_takes_the_place_of_a_new_machines_cluster() {
    let (from, document) = backup().await;
    let (lab, disk) = member_of("ours").await;
    // Since the export a.service got another text, and b.service was stopped.
    let row = |unit: &str, fields: serde_json::Value| {
        let from = &from;
        let unit = name(unit);
        async move {
            let record = from.record(unit.as_str()).await;
            let mut row = json!({"uid": record.uid, "applied": "1-7-9", "load": "loaded", "sub": ""});
            row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            (unit, serde_json::from_value(row).unwrap())
        }
    };
    let other = unit_files::ContentHash::of(b"another text");
    let counters = json!({"start": 1});
    let a = json!({"wanted": "launched", "counters": counters, "active": "active", "running": other});
    let b = json!({"wanted": "loaded", "counters": {"start": 1, "stop": 1}, "active": "inactive"});
    let rows = BTreeMap::from([row("a.service", a).await, row("b.service", b).await]);
    lab.fake.agent.lock().unwrap().units = Arc::new(rows);
    let dry = import(&lab, &document, false).await.unwrap();
    let units = |effects: &[fleet_api::v2::AdoptEffect]| -> Vec<String> {
        effects.iter().map(|effect| effect.unit.clone()).collect()
    };
    assert_eq!(units(&dry.would_stop), ["a.service"]);
    assert_eq!(units(&dry.would_start), ["b.service"]);
    assert!(
        !dry.done && dry.epoch == 5 && dry.newest >= from.record("b.service").await.changed.at.0,
        "{dry:?}"
    );
    let there = || lab.registry.read(&[Area::One(Key::Cluster), Area::Units]);
    assert_eq!(there().await.unwrap().cluster.unwrap().value.id.as_str(), "ours");

    lab.fake.session.send_modify(|session| {
        session.cluster = Some((ClusterId::parse("backup").unwrap(), Epoch(5)));
    });
    assert!(import(&lab, &document, true).await.unwrap().done);
    let found = there().await.unwrap();
    let record = found.cluster.unwrap().value;
    assert_eq!((record.id.as_str(), record.epoch, found.units.len()), ("backup", Epoch(5), 2));
    // Below the cluster's, so that it anchors anew; and no lower, so that a repetition would not come to a lower epoch.
    assert_eq!(disk.member(), Some((ClusterId::parse("backup").unwrap(), Epoch(4))));
}

#[tokio::test]
async fn a_backup_on_other_hardware_names_the_machines_that_its_units_wait_for() {
    let from = Lab::start().await;
    for (sequence, unit) in [(1, "a.service"), (2, "b.service")] {
        from.one(&format!("r{sequence}"), Verb::Start, unit, Some(TEXT)).await;
        from.place(unit, OWN, sequence, Some("active")).await;
    }
    let records = [
        (OWN, json!({"v": 1})),
        ("m-old", json!({"v": 1})),
        ("m-gone", json!({"v": 1, "forgotten": {"at": 1}})),
    ];
    for (id, record) in records {
        from.write(&Key::Machine(MachineId::parse(id).unwrap()), record).await;
    }
    let document = from.registry.export().await.unwrap().unwrap().to_document();
    // Everything that was on the machine was on another one.
    let document = document.replace("\"ours\"", "\"backup\"").replace("\\\"ours\\\"", "\\\"backup\\\"");
    let document = document.replace(OWN, "m-off");
    let (lab, _) = member_of("ours").await;
    let dry = import(&lab, &document, false).await.unwrap();
    let expected: Vec<_> =
        dry.expected.iter().map(|machine| (machine.machine.as_str(), machine.units)).collect();
    assert!(
        expected.contains(&("m-old", 0)) && !expected.iter().any(|(id, _)| *id == "m-gone"),
        "{expected:?}"
    );
    assert!(expected.contains(&("m-off", 2)), "{expected:?}");
}

#[tokio::test]
async fn an_import_that_broke_off_is_told_by_status_health_and_whoever_it_refuses() {
    let (_from, document) = backup().await;
    let lab = Lab::start().await;
    lab.delete(&Key::Cluster).await;
    let begun = json!({"by": "me@m9", "at": 1_795_506_840_116_u64, "why": "imported"});
    lab.write(&Key::Import, json!({"cluster": "another", "begun": begun})).await;
    let last = format!("`etcdctl del --prefix {}`", lab.registry.keys().prefix());
    let status = lab.client().get::<ClusterView>(paths::CLUSTER).await.unwrap();
    let import = status.import.expect("it has the store for itself");
    assert_eq!((import.cluster.as_str(), import.by.as_str()), ("another", "me@m9"));
    assert!(import.since == 1_795_506_840_116 && import.remedy.contains(&last), "{import:?}");
    let refused = self::import(&lab, &document, true).await.unwrap_err().to_string();
    let health = lab.client().get::<HealthView>(paths::CLUSTER_HEALTH).await.unwrap();
    let problem = health.problems.iter().find(|problem| problem.code == "import").expect("it is one");
    assert!(!health.healthy);
    for told in [refused, format!("{} {}", problem.text, problem.remedy)] {
        for part in ["cluster another", "begun by me@m9 at 2026-11-24T07:54:00Z", last.as_str()] {
            assert!(told.contains(part), "{told}");
        }
    }
}

#[tokio::test]
async fn a_machine_with_units_or_of_another_cluster_refuses_a_foreign_document() {
    let (_from, document) = backup().await;
    let (lab, disk) = member_of("ours").await;
    lab.one("r", Verb::Submit, "z.service", Some(TEXT)).await;
    let refused = import(&lab, &document, false).await.unwrap_err().to_string();
    assert!(refused.contains("holds cluster ours already"), "{refused}");
    assert!(import(&lab, &document, true).await.is_err());
    assert_eq!(disk.member().unwrap().0.as_str(), "ours");

    // Its store was emptied: the store knows of no cluster, the machine does.
    let (lab, disk) = member_of("ours").await;
    lab.delete(&Key::Cluster).await;
    lab.fake.session.send_modify(|session| {
        (session.trust, session.cluster, session.has_presence) = (Some(Trust::Empty), None, false);
    });
    for yes in [false, true] {
        let refused = import(&lab, &document, yes).await.unwrap_err().to_string();
        assert!(refused.contains("belongs to cluster ours"), "{refused}");
    }
    assert_eq!(disk.member().unwrap().0.as_str(), "ours");
    assert!(lab.registry.export().await.unwrap().is_none());
}

#[tokio::test]
async fn an_import_is_answered_as_soon_as_the_session_has_joined() {
    let from = Lab::start().await;
    let document = from.registry.export().await.unwrap().unwrap().to_document();
    let lab = Lab::start().await;
    lab.delete(&Key::Cluster).await;
    lab.fake.session.send_modify(|session| {
        (session.trust, session.cluster, session.has_presence) = (None, None, false);
    });
    let client = lab.client();
    let request = ImportRequest { document, yes: true, by: "operator".to_owned() };
    let import =
        tokio::spawn(
            async move { client.post::<ImportReport>(paths::CLUSTER_IMPORT, &request).await.unwrap() },
        );
    let imported = async {
        while lab.registry.read(&[Area::One(Key::Cluster)]).await.unwrap().cluster.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), imported).await.expect("the import writes the cluster");
    assert!(!import.is_finished(), "the session has not joined yet");
    lab.fake.session.send_modify(|session| {
        session.cluster = Some((ClusterId::parse("ours").unwrap(), Epoch(2)));
        (session.trust, session.has_presence) = (Some(Trust::Own), true);
    });
    // Well below what an import waits for a session that does not join.
    let report = timeout(Duration::from_secs(3), import).await.expect("it was told").unwrap();
    assert!(report.done, "{report:?}");
}
