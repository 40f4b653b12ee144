//! Any bytes as a unit file.
//!
//! Holds: nothing panics; a text that is read can be written and read again; what may be submitted comes back from its
//! serialized form as it was, with the same hashes and the same requirements.

use std::collections::BTreeMap;

use unit_files::{
    Checked, Glob, MAX_UNIT_BYTES, UnitFile, UnitName, UnitOption, after, before, check_submit,
    client_unit_name, expand_specifiers, go_quote, is_oneshot, remains_after_exit, requires, wants,
};

/// A plain unit, a template, an instance of it, another type, and a name with everything that names may hold.
const NAMES: [&str; 5] =
    ["hello.service", "web@.service", "web@7.service", "a.timer", "x-y@a\\x2db:1_@.socket"];

/// Judges `bytes` as the content of several units, and its values as names, patterns and texts with specifiers.
pub fn check(bytes: &[u8]) {
    let names = NAMES.map(|name| UnitName::parse(name).expect("the names are legal"));
    let file = match UnitFile::parse_bytes(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1, "{error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    newlines_of_other_systems(bytes, &file);
    written_again(&file);
    for name in &names {
        if let Ok(checked) = check_submit(name, bytes) {
            submitted(name, &checked);
        }
    }
    for option in file.options() {
        text(&option.value, &names);
    }
}

fn newlines_of_other_systems(bytes: &[u8], file: &UnitFile) {
    let text = std::str::from_utf8(bytes).expect("it was read");
    if !text.contains('\r') {
        assert_eq!(UnitFile::parse(&text.replace('\n', "\r\n")).as_ref(), Ok(file));
    }
}

/// A list of options is refused, or it is what its text says.
fn written_again(file: &UnitFile) {
    match UnitFile::from_options(file.options().to_vec()) {
        Ok(again) => {
            assert_eq!(again, *file);
            assert_eq!(UnitFile::parse(&file.serialize()).as_ref(), Ok(file));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn submitted(name: &UnitName, checked: &Checked) {
    let file = &checked.file;
    assert!(!file.is_empty());
    for warning in &checked.warnings {
        assert!(!warning.to_string().is_empty());
    }
    let serialized = file.serialize();
    assert_eq!(UnitFile::parse(&serialized).as_ref(), Ok(file));
    assert_eq!(UnitFile::from_options(file.options().to_vec()).as_ref(), Ok(file));
    // A text at the limit may grow beyond it by its newlines.
    if serialized.len() <= MAX_UNIT_BYTES {
        let again = check_submit(name, serialized.as_bytes()).expect("what was taken is taken again");
        assert_eq!(again, *checked);
        assert_eq!(again.file.serialize(), serialized);
        assert_eq!(again.file.unit_hash(), file.unit_hash());
        assert_eq!(again.file.run_hash(&[]), file.run_hash(&[]));
    }
    restarts_only_for_what_runs(file);
    let targets = file.install_targets().expanded(name);
    assert!(file.has_install() || targets.wanted_by.is_empty());
    for unit in [after(file), before(file), wants(file), requires(file)].concat() {
        let _ = UnitName::parse(&expand_specifiers(&unit, name));
    }
    let _ = (is_oneshot(file), remains_after_exit(file));
    let requirements = &checked.requirements;
    let _ = requirements.fits_machine_id("aaaaaaaa11111111");
    assert!(requirements.fits_metadata(&BTreeMap::new()) || *requirements != Default::default());
}

/// `[X-Fleet]` and what it says never changes how a unit runs; what is generated beside it does.
fn restarts_only_for_what_runs(file: &UnitFile) {
    let mut options = file.options().to_vec();
    options.push(UnitOption::new("X-Fleet", "Conflicts", "other.service"));
    if let Ok(more) = UnitFile::from_options(options) {
        assert_eq!(more.run_hash(&[]), file.run_hash(&[]));
        assert_ne!(more.unit_hash(), file.unit_hash());
    }
    assert_ne!(file.run_hash(&[("drop-in", "")]), file.run_hash(&[]));
    let (one, other) = (("a", "1"), ("b", "2"));
    assert_eq!(file.run_hash(&[one, other]), file.run_hash(&[other, one]));
}

/// A value in the places that values get into.
fn text(value: &str, names: &[UnitName]) {
    for name in names {
        let expanded = expand_specifiers(value, name);
        assert!(value.contains('%') || expanded == value);
    }
    let glob = Glob::new(value);
    assert_eq!(glob.as_str(), value);
    if glob.is_literal() {
        assert!(glob.is_malformed() || glob.matches(value), "{value:?} matches itself");
    }
    let _ = (glob.matches("hello.service"), glob.matches(value));
    if let Ok(name) = UnitName::parse(value) {
        assert_eq!(name.as_str(), value);
        assert_eq!(format!("{}.{}", name.stem(), name.unit_type()), value);
        assert!(!(name.is_template() && name.is_instance()));
        if let Some(template) = name.template() {
            assert!(template.is_template());
            assert_eq!(UnitName::parse(template.as_str()), Ok(template));
        }
    }
    let _ = UnitName::parse(&client_unit_name(value));
    let quoted = go_quote(value);
    assert!(quoted.starts_with('"') && quoted.ends_with('"') && !quoted.contains('\n'));
}
