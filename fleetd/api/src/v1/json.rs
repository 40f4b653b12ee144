//! JSON as Go's encoder writes it and as its decoder reads it.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The keys of request bodies, as the types spell them. Requests may spell them in any case.
const REQUEST_KEYS: [&str; 9] =
    ["name", "options", "section", "value", "desiredState", "currentState", "machineID", "op", "path"];

/// A request body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is empty; the message is Go's.
    #[error("EOF")]
    Empty,
    /// The body ends within a value; the message is Go's.
    #[error("unexpected EOF")]
    Truncated,
    /// A character that cannot stand where it stands; the message is Go's as far as it names the place.
    #[error("invalid character {character:?} {place}")]
    Character { character: char, place: &'static str },
    /// fleet 1.0 put another character in its place, so that the unit was never the one that was sent.
    #[error("invalid UTF-8 at byte {at}")]
    Utf8 { at: usize },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl DecodeError {
    /// What is wrong with the JSON of `text`, in the words that clients of fleet 1.0 know.
    fn of_syntax(text: &str, error: serde_json::Error) -> DecodeError {
        if error.is_eof() {
            return DecodeError::Truncated;
        }
        let said = error.to_string();
        let place = PLACES.iter().find(|(words, _)| said.starts_with(words)).map(|(_, place)| *place);
        let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        // The column counts bytes, from 1.
        let character = line.get(error.column().saturating_sub(1)..).and_then(|rest| rest.chars().next());
        match (character, place) {
            (Some(character), Some(place)) => DecodeError::Character { character, place },
            _ => DecodeError::Json(error),
        }
    }
}

/// What serde_json says, and where Go says it is.
const PLACES: [(&str, &str); 10] = [
    ("expected value", "looking for beginning of value"),
    ("expected ident", "in literal"),
    ("key must be a string", "looking for beginning of object key string"),
    ("trailing comma", "looking for beginning of value"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("invalid escape", "in string escape code"),
    ("control character", "in string literal"),
    ("invalid number", "in numeric literal"),
];

/// One line, no trailing newline, with `<`, `>` and `&` escaped.
#[must_use]
pub fn to_v1_json<T: Serialize>(value: &T) -> String {
    let plain = serde_json::to_string(value).expect("wire types have string keys and no fallible fields");
    // These characters occur only inside strings, so replacing them in the whole text is safe.
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// Reads a request body: keys in any case, unknown keys and everything after the first value ignored, `null` as
/// nothing at all.
///
/// # Errors
/// An empty body, and what is no JSON or has values of other types than `T`; a key that comes twice in one object,
/// whatever the cases of its letters, because the sender cannot mean both; bytes that are no UTF-8; more than 127 values
/// in each other.
pub fn decode_request<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, DecodeError> {
    let text =
        std::str::from_utf8(body).map_err(|error| DecodeError::Utf8 { at: error.valid_up_to() + 1 })?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Body>();
    let Body(value) =
        values.next().ok_or(DecodeError::Empty)?.map_err(|error| DecodeError::of_syntax(text, error))?;
    if value.is_null() {
        return Ok(T::default());
    }
    Ok(serde_json::from_value(value)?)
}

/// A value whose keys are spelled as the types spell them, each once.
struct Body(Value);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        deserializer.deserialize_any(BodyVisitor).map(Body)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Body(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let known = REQUEST_KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key));
            let key = known.map_or(key, |known| (*known).to_owned());
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let Body(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// Go leaves a field alone when the body says `null`.
pub(super) fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Unit;
    use super::*;

    #[test]
    fn what_is_no_json_is_told_as_go_tells_it() {
        let told = |body: &str| decode_request::<Unit>(body.as_bytes()).unwrap_err().to_string();
        assert_eq!((told(""), told(" \n")), ("EOF".to_owned(), "EOF".to_owned()));
        assert_eq!(told(r#"{"name":["#), "unexpected EOF");
        assert_eq!(told(r#"{"name":"a"#), "unexpected EOF");
        assert_eq!(told("x"), "invalid character 'x' looking for beginning of value");
        assert_eq!(told("nonsense"), "invalid character 'o' in literal");
        assert_eq!(told("{\n x}"), "invalid character 'x' looking for beginning of object key string");
        assert_eq!(told(r#"{"a" 1}"#), "invalid character '1' after object key");
        assert_eq!(told(r#"{"a":1 "b"}"#), "invalid character '\"' after object key:value pair");
        assert_eq!(told("[1 2]"), "invalid character '2' after array element");
        assert_eq!(told(r#""\q""#), "invalid character 'q' in string escape code");
    }

    #[test]
    fn request_keys_are_read_in_any_case_and_the_rest_is_ignored() {
        let unit: Unit = decode_request(
            br#"{"NAME":"a.service","desiredstate":"launched","OPTIONS":[{"Section":"S","Name":"N","VALUE":"v"}],"kind":3} trailing"#,
        )
        .unwrap();
        assert_eq!((unit.name.as_str(), unit.desired_state.as_str()), ("a.service", "launched"));
        assert_eq!(unit.options[0].value, "v");
    }

    #[test]
    fn a_key_twice_and_bytes_that_are_no_text_are_refused() {
        let told = |body: &[u8]| decode_request::<Unit>(body).unwrap_err().to_string();
        for body in [r#"{"name":"a","name":"a"}"#, r#"{"name":"a","NAME":"b"}"#] {
            assert!(told(body.as_bytes()).starts_with("duplicate key \"name\" at line 1"), "{body}");
        }
        assert!(told(br#"{"options":[{"value":"a","value":"b"}]}"#).starts_with("duplicate key"));
        assert!(told(br#"{"other":{"x":1,"x":2}}"#).starts_with("duplicate key \"x\""));
        assert_eq!(told(b"{\"name\":\"\xff\"}"), "invalid UTF-8 at byte 10");
        let unit: Unit = decode_request("{\"name\":\"\u{e9}\",\"a\":1,\"A\":2}".as_bytes()).unwrap();
        assert_eq!(unit.name, "\u{e9}");
    }

    #[test]
    fn values_in_values_without_end_are_refused() {
        let deep = |depth: usize| format!("{}1{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth));
        assert!(decode_request::<Unit>(deep(60).as_bytes()).is_ok());
        for depth in [64, 100_000] {
            let told = decode_request::<Unit>(deep(depth).as_bytes()).unwrap_err().to_string();
            assert!(told.starts_with("recursion limit exceeded"), "{told}");
        }
    }

    #[test]
    fn null_and_empty_bodies_are_no_options() {
        for body in ["null", "{}", r#"{"options":[]}"#, r#"{"options":null,"name":null}"#] {
            assert_eq!(decode_request::<Unit>(body.as_bytes()).unwrap(), Unit::default(), "{body}");
        }
        assert_eq!(decode_request::<Unit>(b"").unwrap_err().to_string(), "EOF");
        assert!(decode_request::<Unit>(b"nope").is_err());
        assert!(decode_request::<Unit>(br#"{"name":3}"#).is_err());
    }
}
