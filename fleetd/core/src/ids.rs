//! Types for everything that has an id or a number. Validated where made, never checked again.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id that does not have the form its type asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {expected}")]
pub struct IdError {
    kind: &'static str,
    value: String,
    expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// Anything but 1 to 64 characters of `0-9A-Za-z-_`: such an id would not fit into a key.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let fits = (1..=64).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                if fits {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(IdError {
                        kind: $kind,
                        value: text.chars().take(80).collect(),
                        expected: "expected 1 to 64 characters of 0-9, A-Z, a-z, '-' and '_'",
                    })
                }
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A machine: the contents of its `/etc/machine-id` (`machine-id(5)`).
    MachineId, "machine id");
text_id!(
    /// A cluster: made once, when its registry is created.
    ClusterId, "cluster id");
text_id!(
    /// One life of a unit name, from its submission to its destruction.
    UnitUid, "unit uid");
text_id!(
    /// One boot of a machine (`/proc/sys/kernel/random/boot_id`).
    BootId, "boot id");
text_id!(
    /// One run of a machine's `/run`, to tell a restarted fleetd from a cloned machine.
    Nonce, "nonce");
text_id!(
    /// Names a request, so that the same request sent twice is one.
    RequestId, "request id");

impl MachineId {
    /// The first eight characters, as lists show them and as `MachineID=` may name a machine.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $of:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A revision of the store. 0 means "absent" in a compare.
    Revision, i64);
number!(
    /// A leader's time in office: the create revision of the leader key.
    Term, i64);
number!(
    /// Raised when the cluster is re-anchored after its store was rolled back.
    Epoch, u64);
number!(
    /// A version of a unit's content, from 1.
    Generation, u64);

/// The number of an order. Later orders are greater, whatever leader wrote them.
///
/// Its text form has a fixed width, so that numbers sort as text; a unit sees it as `FLEET_TOKEN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderNumber {
    pub epoch: Epoch,
    pub term: Term,
    pub sequence: u64,
}

impl OrderNumber {
    /// # Errors
    /// Anything that [`fmt::Display`] would not have printed.
    pub fn parse(text: &str) -> Result<OrderNumber, IdError> {
        let number = |text: &str| -> Option<OrderNumber> {
            let mut parts = text.split('-');
            let number = OrderNumber {
                epoch: Epoch(parts.next()?.parse().ok()?),
                term: Term(parts.next()?.parse().ok()?),
                sequence: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(number)
        };
        number(text).ok_or_else(|| IdError {
            kind: "order number",
            value: text.chars().take(80).collect(),
            expected: "expected EPOCH-TERM-SEQUENCE in decimal digits",
        })
    }
}

impl fmt::Display for OrderNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{:012}-{:010}", self.epoch.0, self.term.0, self.sequence)
    }
}
impl Serialize for OrderNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for OrderNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_numbers_sort_alike_as_numbers_and_as_text() {
        let number = |epoch, term, sequence| OrderNumber { epoch: Epoch(epoch), term: Term(term), sequence };
        let numbers = [number(0, 7, 3), number(0, 7, 12), number(0, 100, 1), number(2, 1, 0)];
        for pair in numbers.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_string() < pair[1].to_string());
        }
        for number in numbers {
            assert_eq!(OrderNumber::parse(&number.to_string()), Ok(number));
        }
    }

    #[test]
    fn an_id_that_does_not_fit_into_a_key_is_refused() {
        for bad in ["", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(MachineId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            MachineId::parse("0123456789abcdef").map(|id| id.short().to_owned()),
            Ok("01234567".into())
        );
    }
}
