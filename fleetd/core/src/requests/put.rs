//! `PUT /units/<name>` of API v1, in the order of its checks.
//!
//! The checks before it (content type, body, name) are the HTTP handler's; those of fleet 1.0 that let bad input pass
//! are made here: content is always validated, a bad state is 400, a template is never activated.

use unit_files::UnitName;

use super::Refusal;
use super::change::{Request, Verdict, Written, create, live, repeated, replace, set_desired, stamped};
use super::content::Content;
use crate::records::{DesiredState, UnitRecord};

/// What a request wants of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The options, judged; `None` if the request has none.
    pub content: Option<Content>,
    /// As sent; empty if the request does not say.
    pub desired: String,
}

impl Put {
    /// Judges the request against the record as it is now. [`Verdict::Nothing`] is a success: everything is so already.
    ///
    /// # Errors
    /// A refusal; then nothing is to be written.
    pub fn decide(
        &self,
        name: &UnitName,
        record: Option<&UnitRecord>,
        request: &Request,
    ) -> Result<Verdict, Refusal> {
        if let Some(repeated) = repeated(record, request) {
            return Ok(repeated);
        }
        let Some(old) = live(record) else {
            let content = self.content.as_ref().ok_or(Refusal::UnknownWithoutOptions)?;
            let desired = self.desired(name)?.unwrap_or_default();
            return Ok(Verdict::Write(Box::new(create(content, desired, request, record))));
        };
        // A text with the same hash is the same unit to a v1 client, whatever comments the stored bytes have.
        let content = self.content.as_ref().filter(|content| content.unit_hash != old.current.unit_hash);
        if content.is_none() && self.desired.is_empty() {
            return Err(Refusal::NoDesiredState);
        }
        let desired = self.desired(name)?;
        let mut new = old.clone();
        let replaces = content.is_some_and(|content| replace(&mut new, content));
        if let Some(desired) = desired {
            set_desired(&mut new, desired);
        }
        if new == *old {
            return Ok(Verdict::Nothing { warnings: Vec::new() });
        }
        let why = format!("wanted {}", new.desired.as_str());
        let written = Written {
            record: stamped(new, request),
            text: content.filter(|_| replaces).map(|content| content.text.clone()),
            created: false,
            kind: if replaces { Written::REPLACED } else { "unit-changed" },
            why,
            warnings: Vec::new(),
        };
        Ok(Verdict::Write(Box::new(written)))
    }

    fn desired(&self, name: &UnitName) -> Result<Option<DesiredState>, Refusal> {
        let desired = match self.desired.as_str() {
            "" => return Ok(None),
            "inactive" => DesiredState::Inactive,
            "loaded" => DesiredState::Loaded,
            "launched" => DesiredState::Launched,
            other => return Err(Refusal::BadDesiredState { text: other.to_owned() }),
        };
        if name.is_template() && desired != DesiredState::Inactive {
            return Err(Refusal::TemplateActivation { unit: name.clone() });
        }
        Ok(Some(desired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::requests::change::Verb;
    use crate::requests::testing::{OTHER, TEXT, after, content, name, request};

    fn put(text: Option<&str>, desired: &str) -> Put {
        Put { content: text.map(content), desired: desired.to_owned() }
    }
    fn decide(put: &Put, record: Option<&UnitRecord>) -> Result<Verdict, Refusal> {
        put.decide(&name("a.service"), record, &request("put"))
    }
    fn record(verdict: Result<Verdict, Refusal>) -> UnitRecord {
        match verdict {
            Ok(Verdict::Write(written)) => written.record,
            other => panic!("{other:?}"),
        }
    }
    fn refusal(put: &Put, record: Option<&UnitRecord>) -> (u16, String) {
        let refusal = decide(put, record).unwrap_err();
        (refusal.status(), refusal.to_string())
    }

    #[test]
    fn an_unknown_unit_needs_options() {
        let expected = (409, "unit does not exist and options field empty".to_owned());
        assert_eq!(refusal(&put(None, "launched"), None), expected);
        assert_eq!(record(decide(&put(Some(TEXT), ""), None)).desired, DesiredState::Inactive);
        assert_eq!(record(decide(&put(Some(TEXT), "loaded"), None)).desired, DesiredState::Loaded);
        let destroyed = after(&[Verb::Start, Verb::Destroy]);
        assert_eq!(refusal(&put(None, "launched"), Some(&destroyed)), expected);
    }

    #[test]
    fn a_known_unit_needs_a_state_or_other_content() {
        let known = after(&[Verb::Start]);
        let expected = (409, "must provide DesiredState to update existing unit".to_owned());
        assert_eq!(refusal(&put(None, ""), Some(&known)), expected);
        assert_eq!(refusal(&put(Some(TEXT), ""), Some(&known)), expected);
        let new = record(decide(&put(Some(OTHER), ""), Some(&known)));
        assert_eq!((new.current.generation, new.desired), (Generation(2), DesiredState::Launched));
    }

    #[test]
    fn launched_again_is_a_start_and_lowering_a_stop() {
        let known = after(&[Verb::Start]);
        assert_eq!(record(decide(&put(None, "launched"), Some(&known))).counters.start, 2);
        let lowered = record(decide(&put(None, "loaded"), Some(&known)));
        assert_eq!(lowered.counters.stop, 1);
        let again = put(None, "loaded").decide(&name("a.service"), Some(&lowered), &request("again"));
        assert_eq!(again, Ok(Verdict::Nothing { warnings: vec![] }));
    }

    #[test]
    fn the_same_request_twice_counts_once() {
        let started = record(decide(&put(None, "launched"), Some(&after(&[Verb::Start]))));
        let again = decide(&put(None, "launched"), Some(&started));
        assert_eq!(again, Ok(Verdict::Repeated { created: false }));
        let created = record(decide(&put(Some(TEXT), "launched"), None));
        let again = decide(&put(Some(TEXT), "launched"), Some(&created));
        assert_eq!(again, Ok(Verdict::Repeated { created: true }));
    }

    #[test]
    fn a_bad_state_and_an_active_template_are_400_on_every_path() {
        let known = after(&[Verb::Submit]);
        for known in [None, Some(&known)] {
            let (status, message) = refusal(&put(Some(TEXT), "started"), known);
            assert_eq!(status, 400);
            assert!(message.contains("\"started\""), "{message}");
            let verdict = put(Some(TEXT), "launched").decide(&name("a@.service"), known, &request("x"));
            assert_eq!(verdict.unwrap_err().to_string(), "cannot activate template \"a@.service\"");
        }
    }

    #[test]
    fn the_same_options_do_not_replace_a_text_with_comments() {
        let mut known = after(&[Verb::Submit]);
        replace(&mut known, &content(&format!("# mine\n{TEXT}")));
        let verdict = decide(&put(Some(TEXT), "inactive"), Some(&known));
        assert_eq!(verdict, Ok(Verdict::Nothing { warnings: Vec::new() }));
    }
}
