//! What is wrong with a store of this machine's own, with a remedy for each: of a disk, not of a service.
//!
//! Part of the health; etcd's part is beside it.

use fleet_api::v2::ProblemView;
use fleet_registry::store::{Alarm, EndpointReport};

use super::health::{error, why};

pub(super) fn problems(endpoints: &[EndpointReport], alarms: &[Alarm]) -> Vec<ProblemView> {
    let silent =
        endpoints.iter().filter_map(|report| Some(unreadable(&why(report.status.as_ref().err()?))));
    silent.chain(alarms.iter().map(alarmed)).collect()
}

fn unreadable(why: &str) -> ProblemView {
    let text = format!("this machine's own store does not answer: {why}");
    error("no-answer", "", text, "see `journalctl -u fleetd`; what runs keeps running".to_owned())
}

fn alarmed(alarm: &Alarm) -> ProblemView {
    match alarm {
        Alarm::NoSpace { .. } => error(
            "no-space",
            "",
            "the file system of the state directory is full: changes are refused, what runs keeps running"
                .to_owned(),
            "free space there (`df`); fleetd tries again once a second".to_owned(),
        ),
        Alarm::Corrupt { .. } => disk("its data is damaged"),
        Alarm::Disk { detail } => disk(detail),
    }
}

fn disk(detail: &str) -> ProblemView {
    error(
        "disk",
        "",
        format!(
            "this machine's own store is not written any more ({detail}): changes are refused, what runs keeps running"
        ),
        "check the disk below the state directory (`journalctl -k`), then `systemctl restart fleetd`, which disturbs no \
         unit"
            .to_owned(),
    )
}
