//! What the reader accepts and refuses, and where it points.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first surprise, also in what several tests share"
)]

use unit_files::{MAX_LINE_BYTES, OptionsError, ParseError, UnitFile, UnitOption};

fn options(text: &str) -> Vec<(String, String, String)> {
    let file = UnitFile::parse(text).unwrap();
    file.into_options().into_iter().map(|option| (option.section, option.name, option.value)).collect()
}

fn option(section: &str, name: &str, value: &str) -> (String, String, String) {
    (section.into(), name.into(), value.into())
}

fn refusal(text: &str) -> ParseError {
    UnitFile::parse(text).unwrap_err()
}

fn place(text: &str) -> (usize, usize) {
    let error = refusal(text);
    (error.line, error.column)
}

#[test]
fn comments_blank_lines_and_a_byte_order_mark_are_skipped() {
    let text = "\u{feff}# one\n; two\n\n[A]\n  # three\n\n;four\nb=c # not a comment\n";
    assert_eq!(options(text), [option("A", "b", "c # not a comment")]);
}

#[test]
fn a_comment_that_ends_in_a_backslash_or_backslash_and_space_takes_the_next_line_with_it() {
    assert_eq!(options("[A]\n# x\\\ny=1\nz=2\n"), [option("A", "z", "2")]);
    assert_eq!(options("[A]\n# x\\ \ny=1\nz=2\n"), [option("A", "z", "2")]);
    assert_eq!(options("[A]\n# x\\  \ny=1\n"), [option("A", "y", "1")]);
    assert_eq!(options("[A]\ny=1\n# x\\"), [option("A", "y", "1")]);
}

#[test]
fn section_names_are_not_trimmed_and_options_with_empty_names_or_values_are_kept() {
    assert_eq!(options("[ A ]  \n = x\ny z=\n"), [option(" A ", "", "x"), option(" A ", "y z", "")]);
}

#[test]
fn duplicates_are_kept_and_split_sections_are_grouped() {
    let text = "[A]\nx=1\nx=1\n[B]\ny=\n[A]\nx=\n";
    assert_eq!(
        options(text),
        [option("A", "x", "1"), option("A", "x", "1"), option("A", "x", ""), option("B", "y", "")]
    );
    let file = UnitFile::parse(text).unwrap();
    assert_eq!(file.get("A", "x").collect::<Vec<_>>(), ["1", "1", ""]);
    assert_eq!(file.get("a", "x").count(), 0);
}

#[test]
fn carriage_returns_before_newlines_change_nothing() {
    let text = "[A]\n# c\\\n d=1\nb=c \\\n  d\n\n[B\nC]\ne=f\n";
    assert_eq!(UnitFile::parse(&text.replace('\n', "\r\n")), UnitFile::parse(text));
}

#[test]
fn a_backslash_before_a_space_does_not_continue() {
    assert_eq!(options("[A]\nb=c\\ \nd=e\n"), [option("A", "b", "c\\"), option("A", "d", "e")]);
}

#[test]
fn errors_carry_the_known_text_and_their_place() {
    assert!(refusal("[A]\nb=1\nfoo\n").to_string().starts_with(
        "line 3, column 1: unexpected newline encountered while parsing option name \"foo\"; write Name=Value"
    ));
    assert!(refusal("[A]\n  fo\u{e9}o").to_string().starts_with("line 2, column 3: EOF while parsing"));
    assert!(refusal("[A\nb=c\n").to_string().contains("unable to find end of section"));
    assert!(refusal("[A] # c\n").to_string().contains("found garbage after section name [A]: \"# c\""));
    assert_eq!(place("[A]\n[B\nc=d\n"), (2, 1));
    assert_eq!(place("[A\n\u{e9}]   x\n"), (2, 6));
    assert_eq!(place("[A]\r\nb\\\r\n"), (2, 1));
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_with_their_place() {
    let error = UnitFile::parse_bytes(b"[A]\nb=\xc3\xa9\xff\n").unwrap_err();
    assert_eq!((error.line, error.column), (2, 4));
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}

#[test]
fn a_line_may_have_2047_bytes_wherever_it_stands() {
    let fits = "x".repeat(MAX_LINE_BYTES - 1 - "bb=".len());
    for lead in ["", "# filler\n", &"# a line of thirty-one bytes ok\n".repeat(100)] {
        let head = format!("{lead}[A]\n");
        let line = head.matches('\n').count() + 1;
        for end in ["", "\n", "\r\n", "\\\nmore\n"] {
            let value = if end.starts_with('\\') { &fits[1..] } else { &fits[..] };
            assert!(UnitFile::parse(&format!("{head}bb={value}{end}")).is_ok(), "{end:?}");
            let error = refusal(&format!("{head}bb={value}x{end}"));
            assert_eq!((error.line, error.column), (line, MAX_LINE_BYTES));
            assert!(error.to_string().contains("line too long (max 2048 bytes)"), "{error}");
        }
    }
    assert_eq!(refusal(&format!("[A]\n#{}\n", "c".repeat(MAX_LINE_BYTES))).line, 2);
}

#[test]
fn the_first_fault_by_line_is_the_one_reported() {
    let long = "c".repeat(MAX_LINE_BYTES);
    assert_eq!(refusal(&format!("[A]\nfoo\n#{long}\n")).line, 2);
    assert_eq!(refusal(&format!("[A]\n#{long}\nfoo\n")).line, 2);
    assert!(refusal(&format!("[A]\n#{long}\nfoo\n")).to_string().contains("line too long"));
}

#[test]
fn option_lists_that_would_be_read_back_differently_are_refused() {
    let one = |section: &str, name: &str, value: &str| {
        UnitFile::from_options(vec![UnitOption::new(section, name, value)])
    };
    assert!(matches!(one("S", "ExecStart", "a\nb"), Err(OptionsError::Parse(_))));
    assert!(
        one("S", "ExecStart", "a\nb")
            .unwrap_err()
            .to_string()
            .contains("unexpected newline encountered while parsing option name")
    );
    for (section, name, value) in [
        ("S", "ExecStart", "a\nExecStop=b"),
        ("S", "ExecStart", "a\n# b"),
        ("S", "ExecStart", "a\\\r\nb"),
        ("S", "ExecStart", " a"),
        ("S", "ExecStart", "a\n"),
        ("S", "a=b", "c"),
        ("S", "#a", "c"),
        ("S", "[a", "c"),
        ("S", " a", "c"),
        ("S]T", "a", "b"),
        ("S\r\nT", "a", "b"),
    ] {
        let answer = one(section, name, value);
        assert!(answer.is_err(), "{section:?} {name:?} {value:?} gave {answer:?}");
    }
    for value in ["a\\", "a\\\n", "a\\\n\\"] {
        assert!(matches!(one("S", "a", value), Err(OptionsError::LoneBackslash { .. })), "{value:?}");
    }
    assert!(one("S", "", "").is_ok());
    assert!(one("S", "a", "b\\\n c").is_ok());
    assert_eq!(UnitFile::from_options(Vec::new()).unwrap(), UnitFile::default());
}

#[test]
fn the_reason_of_a_refused_option_list_names_the_option() {
    let options = vec![UnitOption::new("S", "a", "b"), UnitOption::new("S", "c", "d\nExecStop=e")];
    let message = UnitFile::from_options(options).unwrap_err().to_string();
    assert!(
        message.starts_with("option \"c\" in section \"S\" would be read back differently: a newline"),
        "{message}"
    );
}
