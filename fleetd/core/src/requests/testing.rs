//! Records for the tests of this module.

use unit_files::UnitName;

use super::change::{Change, Request, Verb, Verdict};
use super::content::Content;
use crate::ids::{RequestId, UnitUid};
use crate::records::{Stamp, UnitRecord};
use crate::time::Timestamp;

pub const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";
pub const OTHER: &str = "[Service]\nExecStart=/bin/sleep 2d\n";

pub fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}

pub fn content(text: &str) -> Content {
    Content::judge(&name("a.service"), text.as_bytes()).unwrap()
}

pub fn request(id: &str) -> Request {
    // Requests at different times have different stamps.
    let at = Timestamp(1000 + id.bytes().map(u64::from).sum::<u64>());
    Request {
        id: RequestId::parse(id).unwrap(),
        stamp: Stamp { at, by: "tester".into(), why: String::new() },
        new_uid: UnitUid::parse(&format!("uid-{id}")).unwrap(),
    }
}

/// The record after some verbs, each a request of its own.
pub fn after(verbs: &[Verb]) -> UnitRecord {
    let mut record: Option<UnitRecord> = None;
    for (index, verb) in verbs.iter().enumerate() {
        let mut change = Change::new(*verb);
        change.content = Some(content(TEXT));
        let verdict =
            change.decide(&name("a.service"), record.as_ref(), &request(&format!("r{index}"))).unwrap();
        if let Verdict::Write(written) = verdict {
            record = Some(written.record);
        }
    }
    record.unwrap()
}
