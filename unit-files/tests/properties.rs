//! What holds for every input: nothing panics, what is accepted survives, and patterns match as defined.

use proptest::collection::vec;
use proptest::prelude::*;
use unit_files::{
    Glob, Requirements, UnitFile, UnitName, UnitOption, after, check_submit, client_unit_name,
    expand_specifiers, is_oneshot,
};

/// Pieces from which nearly legal unit files are made.
fn fragment() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "[",
        "]",
        "[A]",
        "[X-Fleet]",
        "[Install]",
        "[Unit]",
        "[Service]",
        "[A\nB]",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "=",
        " ",
        "\t",
        "\\",
        "\\\n",
        "\\ \n",
        "\\\r\n",
        "#",
        ";",
        "%",
        "%n",
        "%i",
        "\"",
        "'",
        "a",
        "b=c",
        "a=b\n",
        "MachineID=",
        "MachineOf=",
        "Conflicts=",
        "Replaces=",
        "MachineMetadata=",
        "Global=true",
        "OnPartition=stop",
        "WantedBy=",
        "*",
        "?",
        "\u{feff}",
        "\u{85}",
        "\u{a0}",
        "é",
        "\0",
    ]);
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => "\\PC{0,5}"]
}

/// Anything made of the pieces; seldom legal.
fn wild_text() -> impl Strategy<Value = String> {
    let body = vec(fragment(), 0..40).prop_map(|parts| parts.concat());
    (any::<bool>(), body).prop_map(|(headed, body)| if headed { format!("[A]\n{body}") } else { body })
}

/// A line that is legal by itself: an option, continued or not, a section, a comment, a blank line.
fn tidy_line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a",
        "b",
        "",
        "x y",
        "é",
        "MachineOf",
        "MachineID",
        "MachineMetadata",
        "Conflicts",
        "Global",
        "WantedBy",
        "After",
    ]);
    let end = prop::sample::select(vec!["\n", "\r\n", " \n", "\t\r\n"]);
    let continuation = prop::sample::select(vec!["\\\n", " \\\r\n\t", "\\\n# no comment \\\n", "\\\n\\\n"]);
    let value = "[a-c%ni\"'=;# \\[\\]\u{a0}\\\\é]{0,6}";
    let option = (name, value, vec((continuation, value), 0..3), "[a-c\"]?", end).prop_map(
        |(name, value, continued, last, end)| {
            let continued: String =
                continued.into_iter().map(|(mark, text)| format!("{mark}{text}")).collect();
            format!("{name} ={value}{continued}{last}{end}")
        },
    );
    let other = prop::sample::select(vec![
        "[A]\n",
        "[X-Fleet]\n",
        "[Unit] \r\n",
        "[Install]\n",
        "[A\nB]\n",
        "\n",
        " \t\r\n",
        "# c\n",
        "; c \\\nmore\n",
    ]);
    prop_oneof![3 => option, 2 => other.prop_map(str::to_owned)]
}

fn text() -> impl Strategy<Value = String> {
    let tidy = vec(tidy_line(), 0..8).prop_map(|lines| format!("[A]\n{}", lines.concat()));
    prop_oneof![tidy, wild_text()]
}

fn unit_name() -> impl Strategy<Value = UnitName> {
    "[a-z]{1,3}(@[a-z@]{0,3})?\\.(service|timer|socket)"
        .prop_map(|name| UnitName::parse(&name).expect("made to pass"))
}

fn exercise(name: &UnitName, bytes: &[u8]) {
    let _ = UnitFile::parse_bytes(bytes);
    if let Ok(checked) = check_submit(name, bytes) {
        let file = &checked.file;
        let _ = (file.install_targets().expanded(name), after(file), is_oneshot(file), file.run_hash(&[]));
        let _ = checked.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_anything_panic(name in unit_name(), bytes in vec(any::<u8>(), 0..300)) {
        exercise(&name, &bytes);
        let with_section = [b"[X-Fleet]\n", bytes.as_slice()].concat();
        exercise(&name, &with_section);
    }

    #[test]
    fn no_text_makes_anything_panic(name in unit_name(), text in text()) {
        exercise(&name, text.as_bytes());
        if let Ok(file) = UnitFile::parse(&text) {
            let _ = Requirements::of(&file, &name).map_err(|error| error.to_string());
            let _ = UnitFile::from_options(file.into_options()).map_err(|error| error.to_string());
        }
        let _ = expand_specifiers(&text, &name);
        let _ = Glob::new(text.clone()).matches(&text);
        let _ = UnitName::parse(&text).map_err(|error| error.to_string());
        let _ = UnitName::parse(&client_unit_name(&text));
    }

    #[test]
    fn what_can_be_submitted_survives_serializing(name in unit_name(), text in text()) {
        if let Ok(checked) = check_submit(&name, text.as_bytes()) {
            let serialized = checked.file.serialize();
            let again = check_submit(&name, serialized.as_bytes()).expect("the serialized text can be submitted too");
            prop_assert_eq!(&again.file, &checked.file);
            prop_assert_eq!(&again.requirements, &checked.requirements);
            prop_assert_eq!(again.file.unit_hash(), checked.file.unit_hash());
            prop_assert_eq!(again.file.serialize(), serialized);
            prop_assert_eq!(UnitFile::from_options(checked.file.options().to_vec()).unwrap(), checked.file);
        }
    }

    #[test]
    fn an_option_list_is_refused_or_read_back_as_given(
        parts in vec((fragment(), vec(fragment(), 0..3), vec(fragment(), 0..4)), 0..5)
    ) {
        let options: Vec<UnitOption> =
            parts.into_iter().map(|(section, name, value)| UnitOption::new(section, name.concat(), value.concat())).collect();
        if let Ok(file) = UnitFile::from_options(options.clone()) {
            let again = UnitFile::parse(&file.serialize()).unwrap();
            prop_assert_eq!(again.options().len(), options.len());
            prop_assert_eq!(again, file);
        }
    }

    #[test]
    fn carriage_returns_never_matter_before_newlines(text in text()) {
        let unix = text.replace('\r', "");
        prop_assert_eq!(UnitFile::parse(&unix), UnitFile::parse(&unix.replace('\n', "\r\n")));
    }

    #[test]
    fn accepted_names_are_kept_and_have_consistent_parts(text in "[a-z@.\\\\:_-]{0,8}\\.(service|socket|timer|path|mount)") {
        if let Ok(name) = UnitName::parse(&text) {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert_eq!(format!("{}.{}", name.stem(), name.unit_type()), text);
            if let Some(template) = name.template() {
                prop_assert_eq!(UnitName::parse(template.as_str()), Ok(template.clone()));
                prop_assert!(template.is_template() && name.is_instance());
            }
            prop_assert!(!(name.is_template() && name.is_instance()));
        }
    }

    #[test]
    fn globs_match_as_the_slow_definition_says(pattern in pattern(), name in "[abc]{0,7}") {
        let text: String = pattern.iter().map(|(text, _)| text.as_str()).collect();
        let terms: Vec<Slow> = pattern.into_iter().map(|(_, term)| term).collect();
        let name_chars: Vec<char> = name.chars().collect();
        prop_assert_eq!(Glob::new(text.clone()).matches(&name), slow_match(&terms, &name_chars), "{} {}", text, name);
    }

    #[test]
    fn stars_and_question_marks_never_take_a_slash(pattern in slash_pattern(), name in "[ab/]{0,7}") {
        let text: String = pattern.iter().map(|(text, _)| text.as_str()).collect();
        let terms: Vec<Slow> = pattern.into_iter().map(|(_, term)| term).collect();
        let name_chars: Vec<char> = name.chars().collect();
        prop_assert_eq!(Glob::new(text.clone()).matches(&name), slow_match(&terms, &name_chars), "{} {}", text, name);
    }
}

/// One term of a pattern, by the characters it takes.
#[derive(Clone, Debug)]
enum Slow {
    Run,
    One,
    Of(Vec<char>),
    NoneOf(Vec<char>),
}

/// The definition of matching, trying everything.
fn slow_match(terms: &[Slow], name: &[char]) -> bool {
    let Some((term, terms)) = terms.split_first() else { return name.is_empty() };
    let takes_first = |takes: &dyn Fn(char) -> bool| name.first().is_some_and(|&c| takes(c));
    match term {
        Slow::Run => {
            slow_match(terms, name)
                || takes_first(&|c| c != '/') && slow_match(&[&[Slow::Run], terms].concat(), &name[1..])
        }
        Slow::One => takes_first(&|c| c != '/') && slow_match(terms, &name[1..]),
        Slow::Of(set) => takes_first(&|c| set.contains(&c)) && slow_match(terms, &name[1..]),
        Slow::NoneOf(set) => takes_first(&|c| !set.contains(&c)) && slow_match(terms, &name[1..]),
    }
}

fn pattern() -> impl Strategy<Value = Vec<(String, Slow)>> {
    vec(
        prop_oneof![
            3 => Just(("*".to_owned(), Slow::Run)),
            1 => Just(("?".to_owned(), Slow::One)),
            3 => prop::sample::select(vec!['a', 'b', 'c']).prop_map(|c| (c.to_string(), Slow::Of(vec![c]))),
            1 => Just(("\\a".to_owned(), Slow::Of(vec!['a']))),
            1 => Just(("[ab]".to_owned(), Slow::Of(vec!['a', 'b']))),
            1 => Just(("[b-c]".to_owned(), Slow::Of(vec!['b', 'c']))),
            1 => Just(("[^b-b]".to_owned(), Slow::NoneOf(vec!['b']))),
            1 => Just(("[c-a]".to_owned(), Slow::Of(vec![]))),
        ],
        0..7,
    )
}

/// Without classes, which alone could take a slash that a later star then misses.
fn slash_pattern() -> impl Strategy<Value = Vec<(String, Slow)>> {
    vec(
        prop_oneof![
            3 => Just(("*".to_owned(), Slow::Run)),
            1 => Just(("?".to_owned(), Slow::One)),
            3 => prop::sample::select(vec!['a', 'b', '/']).prop_map(|c| (c.to_string(), Slow::Of(vec![c]))),
        ],
        0..7,
    )
}
