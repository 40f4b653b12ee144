//! The hash of the content and the hash of what runs.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first surprise, also in what several tests share"
)]

use unit_files::{ContentHash, RunHash, UnitFile, UnitHash};

fn run_hash(text: &str, generated: &[(&str, &str)]) -> RunHash {
    UnitFile::parse(text).unwrap().run_hash(generated)
}

#[test]
fn the_content_hash_is_sha_256_of_the_bytes() {
    let hash = ContentHash::of(b"abc");
    assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_ne!(hash, ContentHash::of(b"abc\n"));
}

#[test]
fn placement_and_comments_do_not_change_the_run_hash() {
    let base = run_hash("[Service]\nExecStart=/bin/a\n", &[]);
    assert_eq!(
        base,
        run_hash("[X-Fleet]\nGlobal=true\n[Service]\n# why\nExecStart = /bin/a\n[X-Fleet]\na=b\n", &[])
    );
    assert_ne!(base, run_hash("[Service]\nExecStart=/bin/b\n", &[]));
    assert_ne!(base, run_hash("[Service]\nExecStart=/bin/a\n[X-fleet]\na=b\n", &[]));
}

#[test]
fn generated_things_change_the_run_hash_whatever_their_order_and_never_run_together() {
    let text = "[Service]\nExecStart=/bin/a\n";
    let hash = |generated: &[(&str, &str)]| run_hash(text, generated);
    assert_eq!(hash(&[("drop-in", "x"), ("env", "y")]), hash(&[("env", "y"), ("drop-in", "x")]));
    let all = [
        hash(&[]),
        hash(&[("", "")]),
        hash(&[("a", "bc")]),
        hash(&[("ab", "c")]),
        hash(&[("a", "b"), ("c", "")]),
        hash(&[("abc", "")]),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one), "{index}");
    }
}

#[test]
fn hashes_are_lower_case_hexadecimal_strings_in_json() {
    let json = serde_json::to_string(&ContentHash::of(b"")).unwrap();
    assert_eq!(serde_json::from_str::<ContentHash>(&json).unwrap(), ContentHash::of(b""));
    assert!(serde_json::from_str::<ContentHash>(&json.to_uppercase()).is_err());
    assert!(serde_json::from_str::<UnitHash>(&json).is_err(), "of another length");
}
