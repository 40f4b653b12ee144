//! Files, reloads, pins and names: what systemd reads when, and what is in the way.

use std::path::Path;

use crate::{
    SystemdError,
    contract::{Subject, hash_of, install, is},
    types::{ActiveState, ContentHash, JobResult, LoadState, ShadowKind, UnitName},
};

const OLD: &str = "[Service]\nExecStart=/bin/sleep infinity\n# old\n";
const NEW: &str = "[Service]\nExecStart=/bin/sleep infinity\n# new\n";

pub(super) async fn text_is_read_at_load_not_at_start(subject: &mut Subject<'_>) {
    let name = subject.name("edited.service");
    subject.install(&name, OLD).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    subject.install(&name, NEW).await;
    let stale = subject.loaded(&name).await;
    assert_eq!(stale.loaded_run_hash, Some(hash_of(OLD)));
    assert!(stale.need_daemon_reload);
    subject.stop(&name).await;
    subject.until_unloaded(&name).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let fresh = subject.loaded(&name).await;
    assert_eq!((fresh.loaded_run_hash, fresh.need_daemon_reload), (Some(hash_of(NEW)), false));
}

pub(super) async fn pinned_text_changes_only_by_reload(subject: &mut Subject<'_>) {
    let name = subject.name("pinned-text.service");
    let names = std::slice::from_ref(&name);
    subject.install(&name, OLD).await;
    subject.systemd.pin(names).await.expect("pin");
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let before = subject.loaded(&name).await;
    subject.stop(&name).await;
    subject.install(&name, NEW).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.loaded(&name).await.loaded_run_hash, Some(hash_of(OLD)));
    subject.forget_events();
    subject.systemd.reload().await.expect("reload");
    subject.resync().await;
    let after = subject.loaded(&name).await;
    assert_eq!((after.loaded_run_hash, after.need_daemon_reload), (Some(hash_of(NEW)), false));
    assert_eq!(after.active, ActiveState::Active);
    assert_ne!(after.invocation_id, before.invocation_id);
    assert_eq!(subject.systemd.pinned().await.expect("pinned"), names);
    // Without the pin no reload is needed.
    subject.stop(&name).await;
    subject.systemd.unpin(names).await.expect("unpin");
    subject.until_unloaded(&name).await;
    subject.install(&name, OLD).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.loaded(&name).await.loaded_run_hash, Some(hash_of(OLD)));
}

pub(super) async fn bad_setting_is_refused_and_its_correction_needs_no_reload(subject: &mut Subject<'_>) {
    let name = subject.name("bad.service");
    subject.install(&name, "[Service]\nType=simple\n").await;
    is(subject.systemd.start(&name).await, |error| matches!(error, SystemdError::BadSetting { .. }));
    subject.until_unloaded(&name).await;
    subject.install(&name, OLD).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
}

pub(super) async fn link_that_is_gone_shows_after_a_reload_and_what_runs_goes_on(subject: &mut Subject<'_>) {
    let name = subject.name("unlinked.service");
    subject.install(&name, OLD).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let before = subject.loaded(&name).await;
    subject.systemd.uninstall(&name).await.expect("uninstall");
    subject.systemd.reload().await.expect("reload");
    let after = subject.loaded(&name).await;
    assert_eq!((after.load, after.active), (LoadState::NotFound, ActiveState::Active));
    assert_eq!((after.invocation_id, after.main_pid), (before.invocation_id, before.main_pid));
    subject.stop(&name).await;
    subject.until_unloaded(&name).await;
    is(subject.systemd.start(&name).await, |error| matches!(error, SystemdError::NoSuchUnit { .. }));
}

pub(super) async fn installed_lists_what_lies_there_and_uninstall_is_idempotent(subject: &mut Subject<'_>) {
    let name = subject.name("listed.service");
    let mut unit = install(&name, OLD);
    unit.wanted_by = vec!["fleet-contract.target".to_owned()];
    for _ in 0..2 {
        subject.systemd.install(&unit).await.expect("install");
    }
    let listed = subject.systemd.installed().await.expect("installed");
    let row = listed.iter().find(|row| row.name == name).expect("it is listed");
    assert_eq!(
        (row.content, row.run_hash, row.is_linked),
        (ContentHash::of(&unit.text), Some(unit.run_hash), true)
    );
    for _ in 0..2 {
        subject.systemd.uninstall(&name).await.expect("uninstall");
    }
    let listed = subject.systemd.installed().await.expect("installed");
    assert!(listed.iter().all(|row| row.name != name));
}

/// Every machine has `multi-user.target` loaded.
pub(super) async fn links_toward_a_loaded_target_are_unread_until_a_reload(subject: &mut Subject<'_>) {
    let name = subject.name("wanted.service");
    let mut unit = install(&name, OLD);
    unit.wanted_by = vec!["multi-user.target".to_owned(), "fleet-contract-not-loaded.target".to_owned()];
    unit.required_by = vec!["multi-user.target".to_owned()];
    subject.systemd.install(&unit).await.expect("install");
    let unread = async |subject: &Subject<'_>| {
        let unread = subject.systemd.unread_links().await.expect("unread links");
        unread.into_iter().filter(|link| link.ends_with("/fleet-contract-wanted.service")).collect::<Vec<_>>()
    };
    let [requires, wants] =
        ["requires", "wants"].map(|kind| format!("multi-user.target.{kind}/fleet-contract-wanted.service"));
    assert_eq!(unread(subject).await, [requires, wants]);
    subject.systemd.reload().await.expect("reload");
    assert!(unread(subject).await.is_empty());
    // The target refers to it, so it stays loaded, and its removal needs a reload as well.
    subject.until(&name, "loaded", |unit| unit.load == LoadState::Loaded).await;
    subject.systemd.uninstall(&name).await.expect("uninstall");
    assert_eq!(subject.loaded(&name).await.load, LoadState::Loaded);
    subject.systemd.reload().await.expect("reload");
    subject.until_unloaded(&name).await;
}

pub(super) async fn pins_of_many_names_are_let_go_one_by_one(subject: &mut Subject<'_>) {
    let mut names: Vec<UnitName> = (0..20).map(|n| subject.name(&format!("pin@{n}.service"))).collect();
    names.sort();
    let (first, rest) = names.split_at(1);
    let pinned = async |subject: &Subject<'_>| subject.systemd.pinned().await.expect("pinned");
    subject.systemd.pin(first).await.expect("pin");
    subject.systemd.pin(&names).await.expect("pin");
    subject.systemd.pin(&names).await.expect("pin");
    assert_eq!(pinned(subject).await, names);
    // Pinned before it is installed: a stub, which reads the text when it is started.
    assert_eq!(subject.loaded(&names[7]).await.load, LoadState::NotFound);
    subject.install(&names[7], "[Service]\nType=oneshot\nExecStart=/bin/true\n").await;
    assert_eq!(subject.run(&names[7]).await, JobResult::Done);
    subject.systemd.unpin(first).await.expect("unpin");
    assert_eq!(pinned(subject).await, rest);
    subject.systemd.unpin(&names[1..4]).await.expect("unpin");
    assert_eq!(pinned(subject).await, names[4..]);
    // The pin that moved kept the result all the time.
    assert!(subject.loaded(&names[7]).await.invocation_id.is_some());
    subject.systemd.unpin(&names).await.expect("unpin");
    subject.systemd.unpin(&names).await.expect("unpin");
    assert!(pinned(subject).await.is_empty());
    for name in &names {
        subject.until_unloaded(name).await;
    }
}

pub(super) async fn unit_of_the_host_is_in_the_way_and_ours_is_not(subject: &mut Subject<'_>) {
    let host: UnitName = "dbus.service".parse().expect("a valid name");
    let shadow = subject.systemd.shadowed(&host, &[]).await.expect("shadowed").expect("the host has dbus");
    assert_eq!((shadow.kind, shadow.name.as_str()), (ShadowKind::HostUnit, "dbus.service"));
    assert_eq!(shadow.path.file_name(), Path::new("dbus.service").file_name());

    let name = subject.name("own.service");
    assert_eq!(subject.systemd.shadowed(&name, &[]).await.expect("shadowed"), None);
    let aliased = subject
        .systemd
        .shadowed(&name, &[host.to_string()])
        .await
        .expect("shadowed")
        .expect("the alias is taken");
    assert_eq!(aliased.name, "dbus.service");
    subject.install(&name, OLD).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.systemd.shadowed(&name, &[]).await.expect("shadowed"), None);
}

pub(super) async fn machine_says_who_it_is(subject: &mut Subject<'_>) {
    let environment = subject.systemd.environment().await.expect("environment");
    assert!((32..=64).contains(&environment.boot_id.len()), "{}", environment.boot_id);
    assert!(environment.boot_id.chars().all(|c| c.is_ascii_hexdigit() || c == '-'));
    assert!(!environment.version.is_empty());
    assert_eq!(subject.systemd.environment().await.expect("environment"), environment);
}
