//! `[X-Fleet]`: values, refusals, warnings, and which machines fit.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first surprise, also in what several tests share"
)]

use std::collections::BTreeMap;

use unit_files::{
    Glob, MAX_UNIT_BYTES, OnPartition, RequirementError, Requirements, SubmitError, UnitFile, UnitName,
    Warning, check_submit,
};

fn read(name: &str, lines: &str) -> Result<(Requirements, Vec<Warning>), RequirementError> {
    let file = UnitFile::parse(&format!("[Service]\nExecStart=/bin/true\n[X-Fleet]\n{lines}")).unwrap();
    Requirements::of(&file, &UnitName::parse(name).unwrap())
}

fn requirements(lines: &str) -> Requirements {
    read("a@1.service", lines).unwrap().0
}

fn refusal(lines: &str) -> String {
    read("a@1.service", lines).unwrap_err().to_string()
}

fn warnings(lines: &str) -> Vec<String> {
    read("a@1.service", lines).unwrap().1.iter().map(ToString::to_string).collect()
}

fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn one_line_is_several_values_only_between_quotation_marks() {
    assert_eq!(
        requirements("MachineOf=\"a.service\" \"b.service\"\n").machine_of,
        ["a.service", "b.service"]
    );
    assert_eq!(requirements("MachineOf=m n\n").machine_of, ["m n"]);
    assert_eq!(requirements("MachineOf=\"a b\"  \"c\"\n").machine_of, ["a b", "", "c"]);
    assert_eq!(requirements("MachineOf=\"a\" b\n").machine_of, ["\"a\" b"]);
    assert_eq!(requirements("MachineOf=\"a\"\t\"b\"\n").machine_of, ["a\tb"]);
    assert_eq!(requirements("MachineOf=\"a\" \\\n   \"b\"\n").machine_of, ["a", "b"]);
    assert_eq!(requirements("MachineOf=\n").machine_of, [""]);
}

#[test]
fn specifiers_are_replaced_by_the_name_of_the_unit_itself() {
    let read = requirements("MachineOf=db@%i.service\nMachineMetadata=%p=%N\nReplaces=%n\n");
    assert_eq!(read.machine_of, ["db@1.service"]);
    assert!(read.metadata["a"].contains("a@1"));
    assert_eq!(read.replaces, [Glob::new("a@1.service")]);
}

#[test]
fn refusals_look_at_replaced_text() {
    assert_eq!(
        refusal("MachineOf=db@%i.service\nConflicts=db@1*\n"),
        "unresolvable requirements: peer \"db@1.service\" matches conflict \"db@1*\""
    );
    assert!(read("a@2.service", "MachineOf=db@%i.service\nConflicts=db@1*\n").is_ok());
}

#[test]
fn the_first_machine_id_of_the_first_spelling_counts() {
    let lines = "X-ConditionMachineBootID=c\nX-ConditionMachineID=b\nMachineID=a\nMachineID=d\n";
    assert_eq!(requirements(lines).machine_id.as_deref(), Some("a"));
    assert_eq!(requirements("X-ConditionMachineBootID=c\n").machine_id.as_deref(), Some("c"));
    assert_eq!(requirements("").machine_id, None);
    assert_eq!(
        warnings("MachineID=a\nMachineID=d\n"),
        [
            "MachineID \"d\" is ignored because \"a\" came first; to allow several machines use MachineMetadata"
        ]
    );
}

#[test]
fn a_machine_id_fits_in_full_or_by_its_first_eight_characters() {
    let id = "0123456789abcdef0123456789abcdef";
    let fits = |wanted: &str| requirements(&format!("MachineID={wanted}\n")).fits_machine_id(id);
    assert!(fits(id) && fits("01234567"));
    assert!(!fits("0123456") && !fits("012345678") && !fits(""));
    assert!(requirements("").fits_machine_id(id));
    assert!(!requirements("MachineID=\n").fits_machine_id(""));
}

#[test]
fn metadata_of_one_key_is_or_and_of_several_keys_is_and() {
    let wanted = requirements("MachineMetadata=\"r=1\" \"r=2\"\nX-ConditionMachineMetadata=disk=ssd\n");
    assert!(wanted.fits_metadata(&metadata(&[("r", "2"), ("disk", "ssd"), ("x", "y")])));
    assert!(!wanted.fits_metadata(&metadata(&[("r", "3"), ("disk", "ssd")])));
    assert!(!wanted.fits_metadata(&metadata(&[("r", "1")])));
    assert!(requirements("").fits_metadata(&metadata(&[])));
}

#[test]
fn malformed_metadata_is_ignored_with_a_warning() {
    for value in ["a=b c=d", "a", "=b", "a=", "a=b=c", ""] {
        let lines = format!("MachineMetadata={value}\n");
        assert!(requirements(&lines).metadata.is_empty(), "{value}");
        let said = warnings(&lines);
        assert!(said.len() == 1 && said[0].contains("is ignored: expected key=value"), "{said:?}");
    }
    assert!(requirements("MachineMetadata=a = b\n").metadata["a "].contains(" b"), "nothing is trimmed");
}

#[test]
fn conflicts_are_split_at_white_space_and_replaces_are_not() {
    let read = requirements("Conflicts=b* c\nX-Conflicts=a*\n");
    assert_eq!(read.conflicts, [Glob::new("a*"), Glob::new("b*"), Glob::new("c")]);
    assert_eq!(requirements("Conflicts=\n").conflicts, []);
    assert_eq!(requirements("Replaces=b c\n").replaces, [Glob::new("b c")]);
    assert_eq!(requirements("Replaces=\n").replaces, [Glob::new("")]);
}

#[test]
fn the_last_global_counts_and_true_has_fleets_spellings() {
    for value in ["true", "YES", "1", "on", "T"] {
        assert!(requirements(&format!("Global=false\nGlobal={value}\n")).global, "{value}");
    }
    for value in ["y", "", "false", "2", " "] {
        assert!(!requirements(&format!("Global=true\nGlobal={value}\n")).global, "{value}");
    }
}

#[test]
fn on_partition_is_keep_or_stop() {
    assert_eq!(requirements("").on_partition, OnPartition::Keep);
    assert_eq!(requirements("OnPartition=keep\n").on_partition, OnPartition::Keep);
    assert_eq!(requirements("OnPartition=stop\n").on_partition, OnPartition::Stop);
    for value in ["Stop", "", "kill"] {
        assert_eq!(
            refusal(&format!("OnPartition={value}\n")),
            format!("OnPartition=\"{value}\" has no meaning; expected stop or keep")
        );
    }
}

#[test]
fn excluded_combinations_are_refused_in_order_with_the_messages_of_fleet_1() {
    let (id, peer, conflict, replace, global) =
        ("MachineID=\n", "MachineOf=\n", "Conflicts=c\n", "Replaces=\n", "Global=1\n");
    for (lines, message) in [
        ([peer, "Replaces=*\n", ""], "unresolvable requirements: peer \"\" matches replace \"*\""),
        ([peer, replace, id], "unresolvable requirements: peer \"\" matches replace \"\""),
        ([id, peer, conflict], "MachineID cannot be used with Peers"),
        ([id, conflict, global], "MachineID cannot be used with Conflicts"),
        ([id, global, replace], "MachineID cannot be used with Global"),
        ([id, replace, ""], "MachineID cannot be used with Replaces"),
        ([global, peer, "Replaces=r\n"], "Global cannot be used with Peers"),
        ([global, replace, conflict], "Global cannot be used with Replaces"),
        ([conflict, replace, ""], "Conflicts cannot be used with Replaces"),
    ] {
        assert_eq!(refusal(&lines.concat()), message);
    }
}

#[test]
fn everything_else_may_be_combined() {
    for lines in [
        "Global=1\nConflicts=c\nMachineMetadata=a=b\n",
        "MachineID=m\nMachineMetadata=a=b\nConflicts=\n",
        "MachineOf=p.service\nConflicts=c\nMachineMetadata=a=b\n",
        "MachineOf=p.service\nReplaces=r\nMachineMetadata=a=b\n",
    ] {
        assert!(read("a.service", lines).is_ok(), "{lines}");
    }
}

#[test]
fn unknown_keys_and_sections_are_named_with_what_was_probably_meant() {
    assert_eq!(
        warnings("Globl=true\nmachineid=x\nMachinOf=y\nFoo=bar\nFoo=bar\n"),
        [
            "unrecognized requirement in [X-Fleet] section: \"Globl\"; did you mean Global?",
            "unrecognized requirement in [X-Fleet] section: \"machineid\"; did you mean MachineID?",
            "unrecognized requirement in [X-Fleet] section: \"MachinOf\"; did you mean MachineOf?",
            "unrecognized requirement in [X-Fleet] section: \"Foo\"",
        ]
    );
    assert_eq!(
        warnings("Global=1\n[x-fleet]\na=b\n"),
        ["section [x-fleet] is ignored; did you mean [X-Fleet]?"]
    );
}

#[test]
fn peers_and_patterns_that_can_never_match_are_warned_about() {
    assert!(warnings("MachineOf=a.service b.service\n")[0].contains("no machine can take the unit"));
    assert!(warnings("Conflicts=[a\n")[0].contains("matches no unit"));
    assert!(warnings("Replaces=a.service b.service\n")[0].contains("matches no unit"));
    assert!(warnings("MachineOf=b.service\nConflicts=c*\n").is_empty());
}

#[test]
fn a_template_is_not_refused_for_what_its_instances_decide() {
    let template = UnitName::parse("web@.service").unwrap();
    let submit = |lines: &str| check_submit(&template, format!("[X-Fleet]\n{lines}").as_bytes());
    let checked = submit("MachineOf=db@%i.service\nConflicts=db@.*\n").unwrap();
    assert!(
        matches!(checked.warnings[..], [Warning::InstancesMayBeRefused { .. }]),
        "{:?}",
        checked.warnings
    );
    assert!(submit("OnPartition=%i\n").is_ok());
    assert!(submit("MachineOf=db.service\nConflicts=db*\n").is_err(), "no instance could be submitted");
    assert!(submit("MachineID=%i\nMachineOf=db.service\n").is_err());
    assert!(submit("OnPartition=kill\n").is_err());
}

#[test]
fn a_text_above_256_kib_is_told_apart() {
    let name = UnitName::parse("a.service").unwrap();
    let mut text = String::from("[A]\n");
    while text.len() < MAX_UNIT_BYTES {
        let line = "#".repeat((MAX_UNIT_BYTES - text.len()).min(1000) - 1);
        text.push_str(&line);
        text.push('\n');
    }
    text.replace_range(4..12, "b=c\n####");
    assert_eq!(text.len(), MAX_UNIT_BYTES);
    assert!(check_submit(&name, text.as_bytes()).is_ok());
    text.push('\n');
    let error = check_submit(&name, text.as_bytes()).unwrap_err();
    assert!(matches!(error, SubmitError::TooLarge { size, .. } if size == MAX_UNIT_BYTES + 1));
}

#[test]
fn requirements_survive_json_and_old_json_without_new_fields_reads() {
    let read = requirements("MachineMetadata=a=b\nConflicts=c*\nOnPartition=stop\n");
    let json = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<Requirements>(&json).unwrap(), read);
    assert!(json.contains("\"conflicts\":[\"c*\"]") && json.contains("\"on_partition\":\"stop\""), "{json}");
    assert_eq!(serde_json::from_str::<Requirements>("{}").unwrap(), Requirements::default());
}
