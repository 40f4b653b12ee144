//! The three hashes of a unit.
//!
//! [`UnitHash`] is what fleet 1.0 shows, [`ContentHash`] names the stored bytes, [`RunHash`] says whether a
//! running unit has to be restarted. They are made here and compared everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::serialize::{UnitFile, group_by_section, write_options};
use crate::xfleet::SECTION;

/// A text that is no hash of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no hash: expected {} lower-case hexadecimal digits", bytes * 2)]
pub struct HashError {
    pub text: String,
    /// Length of the wanted hash.
    pub bytes: usize,
}

macro_rules! hex_digest {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first seven digits, as tables show it.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(7);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = HashError;

            fn from_str(text: &str) -> Result<$name, HashError> {
                let wrong = || HashError { text: text.to_owned(), bytes: $bytes };
                if text.contains(|c: char| c.is_ascii_uppercase()) {
                    return Err(wrong());
                }
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
                Ok($name(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = HashError;

            fn try_from(text: String) -> Result<$name, HashError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(hash: $name) -> String {
                hash.to_string()
            }
        }
    };
}

hex_digest! {
    /// SHA-1 of the serialized text: the hash that fleet 1.0 shows and scripts compare with their local
    /// files.
    UnitHash, 20
}

hex_digest! {
    /// SHA-256 of the bytes as submitted: the name under which a text is stored.
    ContentHash, 32
}

hex_digest! {
    /// SHA-256 of what a running unit depends on: all sections but `[X-Fleet]`, and what is generated beside
    /// the text.
    RunHash, 32
}

impl ContentHash {
    pub fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(Sha256::digest(bytes).into())
    }
}

impl UnitFile {
    /// SHA-1 of [`serialize`](UnitFile::serialize). Comments, blank lines and the spacing around `=` do not
    /// change it.
    pub fn unit_hash(&self) -> UnitHash {
        UnitHash(Sha1::digest(self.serialize()).into())
    }

    /// The hash whose change means that a running unit has to be restarted. `generated_beside` lists (kind,
    /// text) of everything written for the unit next to its own text; its order does not matter.
    pub fn run_hash(&self, generated_beside: &[(&str, &str)]) -> RunHash {
        let options =
            group_by_section(self.options().iter().filter(|option| option.section != SECTION).cloned());
        let mut generated = generated_beside.to_vec();
        generated.sort_unstable();
        let mut hasher = Sha256::new();
        let text = write_options(&options);
        let parts = generated.into_iter().flat_map(|(kind, text)| [kind, text]);
        for part in std::iter::once(text.as_str()).chain(parts) {
            // Each part after its length, or two different lists could read the same.
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        RunHash(hasher.finalize().into())
    }
}
