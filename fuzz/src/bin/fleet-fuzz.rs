//! libFuzzer over one target, named by the environment variable `FLEET_FUZZ_TARGET`; the arguments are libFuzzer's.
//!
//! Built and run by `scripts/fuzz.sh`. It decides nothing: the targets are the library's.

#![no_main]

use std::sync::OnceLock;

use fleet_fuzz::{Target, target};

fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FLEET_FUZZ_TARGET").unwrap_or_default();
        target(&name).expect("FLEET_FUZZ_TARGET names a target of the library")
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chosen()(bytes));
