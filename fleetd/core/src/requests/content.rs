//! Whether a text may become the content of a unit, and what the record keeps of it.

use unit_files::{
    ContentHash, OnPartition, Requirements, RunHash, UnitFile, UnitHash, UnitName, UnitOption, check_submit,
    is_oneshot,
};

use super::Refusal;
use crate::ids::Generation;
use crate::records::{GenerationRecord, RunKind, TemplateOrigin};

/// A text that was judged as the content of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// As submitted; stored under `hash`.
    pub text: String,
    pub hash: ContentHash,
    pub unit_hash: UnitHash,
    pub run_hash: RunHash,
    pub requirements: Requirements,
    pub run: RunKind,
    pub description: String,
    /// `Alias=` with specifiers replaced, the unit's own name left out.
    pub aliases: Vec<String>,
    /// What has no effect, in sentences.
    pub warnings: Vec<String>,
    pub template: Option<TemplateOrigin>,
}

impl Content {
    /// Judges the bytes of a unit file.
    ///
    /// # Errors
    /// What the one judgement of unit files refuses, and what this cluster cannot do yet.
    pub fn judge(name: &UnitName, bytes: &[u8]) -> Result<Content, Refusal> {
        let checked = check_submit(name, bytes)?;
        if checked.requirements.on_partition == OnPartition::Stop {
            return Err(Refusal::Exclusive);
        }
        let file = &checked.file;
        let install = file.install_targets().expanded(name);
        Ok(Content {
            // `check_submit` has read it as UTF-8.
            text: String::from_utf8_lossy(bytes).into_owned(),
            hash: ContentHash::of(bytes),
            unit_hash: file.unit_hash(),
            run_hash: file.run_hash(&[]),
            run: if is_oneshot(file) { RunKind::Oneshot } else { RunKind::Continuous },
            description: file.get("Unit", "Description").next().unwrap_or_default().to_owned(),
            aliases: install.aliases.into_iter().filter(|alias| alias != name.as_str()).collect(),
            warnings: checked.warnings.iter().map(ToString::to_string).collect(),
            requirements: checked.requirements,
            template: None,
        })
    }

    /// Judges a list of options, as API v1 sends it. The stored text is the serialized form.
    ///
    /// # Errors
    /// As [`Content::judge`], and a list that would be read back differently.
    pub fn judge_options(name: &UnitName, options: Vec<UnitOption>) -> Result<Content, Refusal> {
        let text = UnitFile::from_options(options)?.serialize();
        Content::judge(name, text.as_bytes())
    }

    pub(super) fn generation(&self, generation: Generation) -> GenerationRecord {
        GenerationRecord {
            generation,
            content: self.hash,
            unit_hash: self.unit_hash,
            run_hash: self.run_hash,
            requirements: self.requirements.clone(),
            run: self.run,
            description: self.description.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::testing::name;

    #[test]
    fn what_decides_later_is_read_off_the_text() {
        let text = "# hello\n[Unit]\nDescription=Hi\n[Service]\nType=oneshot\nExecStart=/bin/true\n\
                    [Install]\nAlias=other.service a.service\n";
        let content = Content::judge(&name("a.service"), text.as_bytes()).unwrap();
        assert_eq!((content.run, content.description.as_str()), (RunKind::Oneshot, "Hi"));
        assert_eq!(content.aliases, ["other.service"]);
        assert_eq!(content.text, text);
    }

    #[test]
    fn an_exclusive_unit_is_refused_until_there_is_a_fence() {
        let text = b"[Service]\nExecStart=/bin/true\n[X-Fleet]\nOnPartition=stop\n";
        let refusal = Content::judge(&name("a.service"), text).unwrap_err();
        assert_eq!(refusal.to_string(), "OnPartition=stop is not yet supported by this cluster");
        assert_eq!(refusal.status(), 400);
    }

    #[test]
    fn a_text_above_256_kib_is_413_and_an_empty_one_409() {
        let long = format!("[A]\n{}", "b=c\n".repeat(65_536));
        assert_eq!(Content::judge(&name("a.service"), long.as_bytes()).unwrap_err().status(), 413);
        assert_eq!(Content::judge(&name("a.service"), b"[A]\n").unwrap_err().status(), 409);
    }

    #[test]
    fn options_with_a_smuggled_newline_are_refused() {
        let options = vec![UnitOption::new("Service", "ExecStart", "a\nExecStop=b")];
        assert_eq!(Content::judge_options(&name("a.service"), options).unwrap_err().status(), 400);
    }
}
