//! Edits of a machine's metadata, as `PATCH /machines` of API v1 sends them.

use std::collections::BTreeMap;

use crate::ids::MachineId;

/// One operation, as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    pub op: &'a str,
    pub path: &'a str,
    pub value: &'a str,
}

/// Why an operation is refused; the messages are those of fleet 1.0, all answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchRefusal {
    #[error("invalid op: expect add, remove, or replace")]
    Op,
    #[error("machine metadata path invalid")]
    Path,
    #[error("invalid value: add and replace require a value")]
    Value,
}

/// For each machine the keys to set; an empty value hides the key that the machine publishes.
pub type Edits = BTreeMap<MachineId, BTreeMap<String, String>>;

/// Validates all operations, then merges them in their order: the last one for a key wins.
///
/// # Errors
/// The first operation that is not valid; then nothing is to be written.
pub fn edits<'a>(operations: impl IntoIterator<Item = Operation<'a>>) -> Result<Edits, PatchRefusal> {
    let mut edits = Edits::new();
    for Operation { op, path, value } in operations {
        let sets = match op {
            "add" | "replace" => true,
            "remove" => false,
            _ => return Err(PatchRefusal::Op),
        };
        let (machine, key) = parse(path).ok_or(PatchRefusal::Path)?;
        if sets && value.is_empty() {
            return Err(PatchRefusal::Value);
        }
        let value = if sets { value.to_owned() } else { String::new() };
        edits.entry(machine).or_default().insert(key.to_owned(), value);
    }
    Ok(edits)
}

/// `/<machine>/metadata/<key>`
fn parse(path: &str) -> Option<(MachineId, &str)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let machine = MachineId::parse(parts.next()?).ok()?;
    if parts.next()? != "metadata" {
        return None;
    }
    let key = parts.next().filter(|_| parts.clone().next().is_none())?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (!key.is_empty() && key.bytes().all(fits)).then_some((machine, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(op: &'a str, path: &'a str, value: &'a str) -> Operation<'a> {
        Operation { op, path, value }
    }

    #[test]
    fn operations_are_merged_in_their_order() {
        let path = "/m1/metadata/role";
        let merged =
            edits([of("add", path, "a"), of("replace", path, "b"), of("remove", "/m2/metadata/x", "")]);
        let merged = merged.unwrap();
        assert_eq!(merged[&MachineId::parse("m1").unwrap()]["role"], "b");
        assert_eq!(merged[&MachineId::parse("m2").unwrap()]["x"], "");
        assert_eq!(edits([]), Ok(Edits::new()));
    }

    #[test]
    fn one_bad_operation_refuses_all() {
        let good = of("add", "/m1/metadata/role", "a");
        let refused = |bad| edits([good.clone(), bad]).unwrap_err();
        assert_eq!(refused(of("move", "/m1/metadata/a", "b")), PatchRefusal::Op);
        assert_eq!(refused(of("add", "/m1/metadata/a", "")), PatchRefusal::Value);
        for path in
            ["", "/m1/metadata", "m1/metadata/a", "/m1/metadata/a/b", "/m1/metadata/\u{e9}", "//metadata/a"]
        {
            assert_eq!(refused(of("add", path, "b")), PatchRefusal::Path, "{path:?}");
        }
    }
}
