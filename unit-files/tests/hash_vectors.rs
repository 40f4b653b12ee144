//! The texts, serialized forms and hashes that were recorded from the original program.

use unit_files::{ParseErrorKind, SubmitError, UnitFile, UnitName, check_submit};

/// Input, serialized form, SHA-1.
const VECTORS: [(&str, &str, &str); 14] = [
    ("", "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("[A]\n", "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    (
        "[Service]\nExecStart=/bin/true\n",
        "[Service]\nExecStart=/bin/true\n",
        "86943ac9f3754cb90f8dd38bf6da7b0cad074592",
    ),
    (
        "[A]\nb=c\n[B]\n[A]\nd=e\n[C]\nf=g",
        "[A]\nb=c\nd=e\n\n[C]\nf=g\n",
        "c69592299bc676e0e35539b65ab3d056074ed188",
    ),
    // The third row of the recording with the text before its section removed, which is now an error.
    ("[A]\nb=c", "[A]\nb=c\n", "8e31b762812dd5eef6854ef462546fb777e4594b"),
    ("[A]\n b = c d \n", "[A]\nb=c d\n", "c84b4421aed265b7047d3da3551e5c8899b0d96d"),
    ("[A]\nb=c\\\n d\n", "[A]\nb=c\\\n d\n", "78f740c0dff77327116865844e313aae63f8fb16"),
    (
        "[A]\nb=c \\\n  d \\\n\ne=f\n",
        "[A]\nb=c \\\n  d \\\n\ne=f\n",
        "2083d87f777949bb0ef3027fd55f0d3803f6f8d1",
    ),
    ("[A]\nb=c\\", "[A]\nb=c\\\n", "24ce43de87972fe3d7d1b8f6f0e70cb3f7fd942b"),
    ("[A]\nb=c\\\n", "[A]\nb=c\\\n\n", "f8eda3fc2bcf5d2fc346fa5fdc8c39d5e948c915"),
    ("[A]\r\nb=c\\\r\nd=e\r\n", "[A]\nb=c\\\nd=e\n", "a9333be91dc64fd61e733f0d00dbef965192ea0f"),
    ("[A]\nb=c\\\n# com\nd=e\n", "[A]\nb=c\\\n# com\nd=e\n", "6845c664ecb945b37f10380b7fe246e9ff861772"),
    ("[A]\n#c\\\nb=c\nd=e\n", "[A]\nd=e\n", "c46b1309f0de346b5fe90ad9f41e86b7e21524dc"),
    ("[A\nB]\nc=d\n", "[A\nB]\nc=d\n", "0e7f308cc6b9746d9f140bdfb35357256b8916d3"),
];

#[test]
fn every_recorded_text_has_its_serialized_form_and_hash() {
    for (input, serialized, sha1) in VECTORS {
        let file = UnitFile::parse(input).unwrap();
        assert_eq!(file.serialize(), serialized, "{input:?}");
        assert_eq!(file.unit_hash().to_string(), sha1, "{input:?}");
        assert_eq!(file.unit_hash().short(), sha1[..7], "{input:?}");
    }
}

#[test]
fn every_recorded_text_can_be_submitted_but_the_empty_ones_and_lone_backslashes() {
    let name = UnitName::parse("a.service").unwrap();
    for (row, (input, ..)) in VECTORS.into_iter().enumerate() {
        let answer = check_submit(&name, input.as_bytes());
        match row {
            0 | 1 => assert!(matches!(answer, Err(SubmitError::Empty { .. })), "{input:?}"),
            8 | 9 => {
                let message = answer.unwrap_err().to_string();
                assert!(
                    message.starts_with(
                        "unit a.service: line 2: value of \"b\" in section \"A\" ends in a lone"
                    ),
                    "{message}"
                );
            }
            _ => assert!(answer.is_ok(), "{input:?}"),
        }
    }
}

#[test]
fn text_before_the_first_section_is_an_error_with_its_place() {
    for (input, line, column) in
        [("x=1\n[A]\nb=c\n", 1, 1), ("foo [A]\nb=c", 1, 1), ("# c\n\n  y\n[A]\nb=c\n", 3, 3)]
    {
        let error = UnitFile::parse(input).unwrap_err();
        assert!(matches!(error.kind, ParseErrorKind::TextBeforeSection { .. }), "{input:?}");
        assert_eq!((error.line, error.column), (line, column), "{input:?}");
    }
}
