//! The cluster in one process: scenario files, the promises, and generated histories.
//!
//! Each file of `tests/scenarios/` is a test of its own name; `FLEET_BLESS=1` rewrites what the files expect.

#![expect(clippy::panic, reason = "a test ends where it goes wrong")]

mod at_rest;
mod histories;
mod kill_points;
mod store_errors;
mod waits;

use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fleet_tests::sim::script::check(&directory().join(concat!(stringify!($name), ".txt")));
            }
        )*

        #[test]
        fn every_scenario_file_is_a_test() {
            let mut listed = vec![$(concat!(stringify!($name), ".txt").to_owned()),*];
            let entries = std::fs::read_dir(directory()).unwrap();
            let mut found: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            listed.sort();
            found.sort();
            assert_eq!(listed, found);
        }
    };
}

scenarios! {
    a_cloned_machine_id_is_refused
    a_global_unit_is_replaced_one_machine_after_the_other
    a_leader_that_was_frozen_writes_nothing
    a_local_stop_is_respected_and_shown
    a_machine_boots_without_the_store
    a_machine_dies_and_its_units_move
    a_machine_refuses_and_the_unit_goes_elsewhere
    a_metadata_push_is_held_back
    a_oneshot_runs_once
    a_template_and_its_instances
    a_unit_that_replaces_another
    a_unit_without_an_order_is_an_orphan
    an_election_of_the_store_is_waited_out_once
    conflicts_keep_units_apart
    followers_move_with_their_target
    new_content_restarts_only_if_it_runs_differently
    p1_a_disk_that_was_lost_under_running_units
    p1_a_lease_expires_and_nothing_stops
    p1_a_missing_record_freezes_its_orders
    p1_a_state_directory_that_cannot_be_written
    p1_an_old_order_is_not_obeyed
    p1_records_that_cannot_be_read
    p1_the_store_is_another_clusters
    p1_the_store_is_emptied
    p1_the_store_is_restored_from_an_older_snapshot
    p1_the_store_is_silent_for_an_hour
    p1_the_store_is_stopped_for_an_hour
    p3_a_fleetd_that_comes_back_late_disturbs_nothing
    p3_fleetd_comes_and_goes
    p4_a_lost_machines_units_read_unknown
    p5_every_refusal_has_its_reason
    p6_a_compaction_while_away
    p6_a_muted_watch_is_found_by_the_audit
    p6_two_restarts_while_away_are_one
    p7_a_start_that_takes_minutes_delays_nobody
    p7_a_stop_that_hangs_delays_nobody
    p7_a_unit_that_cannot_load_delays_nobody
    p9_the_api_answers_while_the_store_is_silent
    the_brake_ends_when_the_machines_return
    the_brake_holds_and_is_released
    units_that_cannot_be_submitted
}
