//! Substitution of `%` specifiers that depend on the unit's name alone.
//!
//! Two rules exist side by side: fleet's for `[X-Fleet]`, and systemd's for the sections that systemd reads.

use crate::name::UnitName;

/// Fleet's rule: plain replacement of `%n`, `%N`, `%p`, `%i`, one after the other. What an earlier one
/// inserted is scanned by the later ones; `%%` and all others stay as they are.
pub(crate) fn substitute(text: &str, name: &UnitName) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    text.replace("%n", name.as_str())
        .replace("%N", name.stem())
        .replace("%p", name.prefix())
        .replace("%i", name.instance().unwrap_or_default())
}

/// systemd's rule: one pass over `%n %N %p %i %j %%`. Specifiers that need a machine to answer, such as
/// `%m`, stay as they are.
pub fn expand_specifiers(text: &str, name: &UnitName) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let specifier = after.chars().next();
        match specifier {
            Some('n') => out.push_str(name.as_str()),
            Some('N') => out.push_str(name.stem()),
            Some('p') => out.push_str(name.prefix()),
            Some('i') => out.push_str(name.instance().unwrap_or_default()),
            Some('j') => out.push_str(name.prefix().rsplit('-').next().unwrap_or_default()),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
        rest = &after[specifier.map_or(0, char::len_utf8)..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_substitutes_one_specifier_after_the_other() {
        let name = UnitName::parse("a@b.service").unwrap();
        assert_eq!(substitute("%n %N %p %i %% %m", &name), "a@b.service a@b a b %% %m");
        assert_eq!(substitute("%%p", &name), "%a", "plain text replacement knows no escape");
    }

    #[test]
    fn systemd_expands_in_one_pass() {
        let name = UnitName::parse("x-a@b.service").unwrap();
        assert_eq!(
            expand_specifiers("%n|%N|%p|%i|%j|%%p|%m|%", &name),
            "x-a@b.service|x-a@b|x-a|b|a|%p|%m|%"
        );
    }
}
