//! Reads a file of cases; the grammar is in `tests/conformance/README.md`. What is not in the grammar is an error with
//! the line's number.

use std::path::Path;

use super::case::{Act, Answer, Case, Command, Request, Section, Step};
use super::pattern;

/// What an indented line belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Nothing,
    File,
    Command,
    Request,
    Answer,
}

pub fn read(path: &Path) -> Result<Section, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Section, String> {
    let mut reader = Reader {
        section: Section { number: String::new(), title: String::new(), cases: Vec::new() },
        part: Part::Nothing,
        blanks: 0,
    };
    for (line, number) in text.lines().zip(1..) {
        reader.line(path, line, number).map_err(|error| format!("{}:{number}: {error}", path.display()))?;
    }
    match reader.section.cases.iter().find_map(|case| fault(case).map(|fault| (case.line, fault))) {
        Some((line, fault)) => Err(format!("{}:{line}: {fault}", path.display())),
        None => Ok(reader.section),
    }
}

/// A case that judges nothing is none.
fn fault(case: &Case) -> Option<&'static str> {
    let is_judged = |step: &Step| !matches!(step.act, Act::File { .. });
    let is_open = |step: &Step| matches!(&step.act, Act::Request(request) if request.answer.status == 0);
    if !case.steps.iter().any(is_judged) {
        Some("the case neither runs a command nor sends a request")
    } else if case.steps.iter().any(is_open) {
        Some("a request has no answer (`< STATUS`)")
    } else {
        None
    }
}

struct Reader {
    section: Section,
    part: Part,
    /// Empty lines that belong to a text if more of it follows.
    blanks: usize,
}

impl Reader {
    fn line(&mut self, path: &Path, line: &str, number: usize) -> Result<(), String> {
        if line.trim().is_empty() {
            self.blanks += 1;
            return Ok(());
        }
        let blanks = std::mem::take(&mut self.blanks);
        if let Some(text) = line.strip_prefix("    ") {
            return self.text(text, blanks);
        }
        if let Some(rest) = line.strip_prefix("  ") {
            return self.detail(rest);
        }
        if line.starts_with('#') {
            return Ok(());
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "section" if self.section.number.is_empty() => {
                let (number, title) = rest.split_once(' ').ok_or("expected: section §N TITLE")?;
                (self.section.number, self.section.title) = (number.to_owned(), title.to_owned());
                self.part = Part::Nothing;
            }
            "case" => {
                let (cites, title) = rest.split_once(' ').ok_or("expected: case §N.N TITLE")?;
                if !cites.starts_with('§') {
                    return Err(format!("`{cites}` names no paragraph"));
                }
                self.section.cases.push(Case {
                    file: path.to_owned(),
                    line: number,
                    cites: cites.to_owned(),
                    title: title.to_owned(),
                    steps: Vec::new(),
                });
                self.part = Part::Nothing;
            }
            "file" => {
                let act = Act::File { name: rest.to_owned(), text: String::new() };
                self.step(Step { line: number, is_later: false, act }, Part::File)?;
            }
            "<" => {
                let status = rest.parse().map_err(|_| format!("`{rest}` is no status"))?;
                match self.act() {
                    Some(Act::Request(request)) if request.answer.status == 0 => {
                        request.answer = Answer { status, ..Answer::default() };
                    }
                    _ => return Err("an answer without a request".to_owned()),
                }
                self.part = Part::Answer;
            }
            _ => self.action(line, number)?,
        }
        Ok(())
    }

    /// `[later] [mixed] [m1] $ COMMAND` and `[later] > METHOD PATH`.
    fn action(&mut self, line: &str, number: usize) -> Result<(), String> {
        let (mut is_later, mut command) = (false, Command::default());
        let mut rest = line;
        while let Some((word, more)) = rest.split_once(' ') {
            rest = more;
            match word {
                "later" => is_later = true,
                "mixed" => command.is_mixed = true,
                "m1" | "m2" => command.machine = Some(word.to_owned()),
                "$" => {
                    rest.clone_into(&mut command.text);
                    let act = Act::Command(command);
                    return self.step(Step { line: number, is_later, act }, Part::Command);
                }
                ">" => {
                    let (method, path) = rest.split_once(' ').ok_or("expected: > METHOD PATH")?;
                    let request =
                        Request { method: method.to_owned(), path: path.to_owned(), ..Request::default() };
                    let act = Act::Request(request);
                    return self.step(Step { line: number, is_later, act }, Part::Request);
                }
                _ => break,
            }
        }
        Err(format!("unknown directive: {line}"))
    }

    fn step(&mut self, step: Step, part: Part) -> Result<(), String> {
        let case = self.section.cases.last_mut().ok_or("a step before the first case")?;
        case.steps.push(step);
        self.part = part;
        Ok(())
    }

    fn act(&mut self) -> Option<&mut Act> {
        Some(&mut self.section.cases.last_mut()?.steps.last_mut()?.act)
    }

    /// A line of a file, of standard output, or of a body.
    fn text(&mut self, text: &str, blanks: usize) -> Result<(), String> {
        let (part, text) = (self.part, pattern::characters(text));
        let expected = match (part, self.act()) {
            (Part::File, Some(Act::File { text: file, .. })) => {
                file.push_str(&"\n".repeat(blanks));
                match text.strip_suffix('¬') {
                    Some(last) => file.push_str(last),
                    None => file.push_str(&(text + "\n")),
                }
                return Ok(());
            }
            (Part::Request, Some(Act::Request(request))) => {
                request.body.push(text);
                return Ok(());
            }
            (Part::Command, Some(Act::Command(command))) => &mut command.stdout,
            (Part::Answer, Some(Act::Request(request))) => &mut request.answer.body,
            _ => return Err(format!("text that belongs to nothing: {text}")),
        };
        pattern::check(&text)?;
        expected.extend(std::iter::repeat_n(String::new(), blanks));
        expected.push(text);
        Ok(())
    }

    /// Standard error, the exit code, a header.
    fn detail(&mut self, rest: &str) -> Result<(), String> {
        let (part, rest) = (self.part, pattern::characters(rest));
        match (part, self.act()) {
            (Part::Command, Some(Act::Command(command))) => match rest.split_once(' ') {
                Some(("!", text)) => {
                    pattern::check(text)?;
                    command.stderr.push(text.to_owned());
                }
                Some(("=", code)) => {
                    command.code = code.parse().map_err(|_| format!("`{code}` is no exit code"))?;
                }
                _ if rest == "!" => command.stderr.push(String::new()),
                _ => return Err(format!("unknown directive: {rest}")),
            },
            (Part::Request | Part::Answer, Some(Act::Request(request))) => {
                let (name, value) = rest.split_once(": ").ok_or("expected: NAME: VALUE")?;
                let header = (name.to_owned(), value.to_owned());
                if part == Part::Request {
                    request.headers.push(header);
                } else {
                    pattern::check(value)?;
                    request.answer.headers.push(header);
                }
            }
            _ => return Err(format!("unknown directive: {rest}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("x.txt"), text).unwrap_err()
    }

    #[test]
    fn what_is_not_in_the_grammar_is_an_error_with_its_line() {
        assert_eq!(error("section §1 Names\nskip §1.1 this\n"), "x.txt:2: unknown directive: skip §1.1 this");
        assert!(error("case §1.1 a\n$ true\n  ? 1\n").starts_with("x.txt:3: unknown directive"));
        assert!(error("case §1.1 a\n$ true\n    <WORLD>\n").contains("unknown placeholder: <WORLD>"));
        assert!(error("case 1.1 a\n").contains("names no paragraph"));
        assert!(error("$ true\n").contains("before the first case"));
        assert!(error("case §1.1 a\n    text\n").contains("belongs to nothing"));
    }

    #[test]
    fn a_case_that_judges_nothing_is_an_error() {
        assert!(error("case §1.1 a\nfile x\n    y\n").contains("neither runs a command"));
        assert!(error("case §1.1 a\n> GET /\n").contains("has no answer"));
    }

    #[test]
    fn files_outputs_and_answers_are_read() {
        let text = "section §1 Names\n# why\ncase §1.1 a title\nfile x.service\n    [A]\n\n    b=c␍\n    d¬\n\n\
                    later mixed m2 $ cat x | tac\n    out⇥1\n\n    out 2\n  ! err\n  = 3\n\
                    > PUT /x\n  A: b\n    {}\n< 204\n  C: d\n";
        let section = parse(Path::new("x.txt"), text).unwrap();
        assert_eq!((section.number.as_str(), section.title.as_str()), ("§1", "Names"));
        let steps = &section.cases[0].steps;
        assert!(matches!(&steps[0].act, Act::File { text, .. } if text == "[A]\n\nb=c\r\nd"));
        let Act::Command(command) = &steps[1].act else { panic!("a command") };
        assert!(steps[1].is_later && command.is_mixed && command.machine.as_deref() == Some("m2"));
        assert_eq!(command.stdout, ["out\t1", "", "out 2"]);
        assert_eq!((command.stderr.as_slice(), command.code), (["err".to_owned()].as_slice(), 3));
        let Act::Request(request) = &steps[2].act else { panic!("a request") };
        assert_eq!((request.body.join(""), request.answer.status), ("{}".to_owned(), 204));
        assert_eq!(request.answer.headers, [("C".to_owned(), "d".to_owned())]);
    }
}
