//! What every list can: `--fields`, `-o table|wide|json|name`, `--sort`, and colours of states.
//!
//! A command has its fields and rows; which of them, in which order and form, is decided here.

use clap::{Args, ValueEnum};

use super::colour::{self, Tone};
use super::order::{Key, Place};
use super::table;
use crate::exit::Exit;
use crate::flags::go_bool;
use crate::{output, suggest};

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns as fleet 1.0 had them, for people and for scripts that cut them
    #[default]
    #[value(alias = "text")]
    Table,
    /// All fields
    Wide,
    /// What the API answered
    Json,
    /// The first column and nothing else
    Name,
}

/// How lists are shown.
#[derive(Args, Clone, Debug, Default)]
pub struct ListFlags {
    /// Columns, separated by commas.
    #[arg(long, value_name = "FIELDS")]
    pub fields: Option<String>,
    /// Show machine ids and hashes in full.
    #[arg(short = 'l', long, alias = "l", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub full: bool,
    /// Leave out the header.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub no_legend: bool,
    /// How to print the list.
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    pub output: Format,
    /// Sort by these fields, the largest first behind a minus sign: -since,unit
    #[arg(long, value_name = "FIELD[,-FIELD]", allow_hyphen_values = true)]
    pub sort: Option<String>,
}

impl ListFlags {
    pub fn is_json(&self) -> bool {
        self.output == Format::Json
    }
}

/// One column that a list can show.
#[derive(Debug)]
pub struct Field<Row> {
    /// For `--fields` and `--sort`; in capitals the head of the column.
    pub name: &'static str,
    cell: fn(&Row, full: bool) -> String,
    /// What it is sorted by; without one, the text of the cell.
    key: Option<fn(&Row) -> Option<Key>>,
    is_state: bool,
    is_deprecated: bool,
}

impl<Row> Field<Row> {
    pub const fn new(name: &'static str, cell: fn(&Row, full: bool) -> String) -> Field<Row> {
        Field { name, cell, key: None, is_state: false, is_deprecated: false }
    }

    /// Sorts the column by this.
    pub const fn by(self, key: fn(&Row) -> Option<Key>) -> Field<Row> {
        Field { key: Some(key), ..self }
    }

    /// The column shows states, which have colours.
    pub const fn state(self) -> Field<Row> {
        Field { is_state: true, ..self }
    }

    /// Another word for a field, kept for scripts.
    pub const fn deprecated(self) -> Field<Row> {
        Field { is_deprecated: true, ..self }
    }

    fn key(&self, row: &Row) -> Option<Key> {
        match self.key {
            Some(key) => key(row),
            None => Key::text(&(self.cell)(row, true)),
        }
    }
}

/// Why a list cannot be shown as asked for; printed as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("Must define output format")]
    Empty,
    #[error("Invalid key in output format: {given:?}")]
    Unknown { given: String, known: Vec<&'static str> },
    #[error("Invalid key in --sort: {given:?}; the fields of this list are {}", known.join(" "))]
    UnknownOrder { given: String, known: Vec<&'static str> },
}

impl FieldError {
    /// Says it, and on a line of its own what may have been meant.
    pub fn tell(&self) -> Exit {
        output::note(self.to_string());
        let (exit, found) = match self {
            FieldError::Empty => (Exit::FAILED, Vec::new()),
            FieldError::Unknown { given, known } => (Exit::FAILED, suggest::nearest(given, known)),
            FieldError::UnknownOrder { given, known } => {
                (Exit::USAGE, suggest::nearest(given.trim_start_matches('-'), known))
            }
        };
        if let Some(hint) = suggest::line(&found) {
            output::note(hint);
        }
        exit
    }
}

/// What is shown of a list of `Row`, in which order and form.
#[derive(Debug)]
pub struct Layout<'f, Row> {
    columns: Vec<&'f Field<Row>>,
    /// Fields to sort by, and whether the largest comes first.
    order: Vec<(&'f Field<Row>, bool)>,
    full: bool,
    has_legend: bool,
}

impl<'f, Row> Layout<'f, Row> {
    /// `default` are the columns where nothing else is asked for. Asks nobody, so that a wrong field is an error before
    /// anything is requested.
    pub fn new(
        fields: &'f [Field<Row>],
        default: &str,
        flags: &ListFlags,
    ) -> Result<Layout<'f, Row>, FieldError> {
        let known = || fields.iter().map(|field| field.name).collect::<Vec<_>>();
        let find = |name: &str| fields.iter().find(|field| field.name == name);
        let named = |names: &str| -> Result<Vec<&'f Field<Row>>, FieldError> {
            let column = |name: &str| {
                find(name).ok_or_else(|| FieldError::Unknown { given: name.to_owned(), known: known() })
            };
            names.split(',').map(column).collect()
        };
        let mut columns = match &flags.fields {
            Some(names) if names.is_empty() => return Err(FieldError::Empty),
            Some(names) => named(names)?,
            None if flags.output == Format::Wide => {
                fields.iter().filter(|field| !field.is_deprecated).collect()
            }
            None => named(default)?,
        };
        let is_name = flags.output == Format::Name;
        if is_name {
            columns.truncate(1);
        }
        let order = flags.sort.iter().flat_map(|names| names.split(',')).map(|given| {
            let (name, is_descending) = given.strip_prefix('-').map_or((given, false), |name| (name, true));
            let field = find(name);
            field
                .map(|field| (field, is_descending))
                .ok_or_else(|| FieldError::UnknownOrder { given: given.to_owned(), known: known() })
        });
        let order = order.collect::<Result<_, _>>()?;
        Ok(Layout { columns, order, full: flags.full, has_legend: !flags.no_legend && !is_name })
    }

    /// Where nothing decides between two rows they stay in the order in which they are.
    pub fn sort(&self, rows: &mut [Row]) {
        if self.order.is_empty() {
            return;
        }
        rows.sort_by_cached_key(|row| {
            let places = self.order.iter();
            places
                .map(|(field, is_descending)| Place { key: field.key(row), is_descending: *is_descending })
                .collect::<Vec<_>>()
        });
    }

    pub fn text(&self, rows: &[Row], has_colours: bool) -> String {
        let header: Vec<String> = self.columns.iter().map(|field| field.name.to_uppercase()).collect();
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| self.columns.iter().map(|field| (field.cell)(row, self.full)).collect())
            .collect();
        table::render_in(self.has_legend.then_some(header.as_slice()), &cells, |column, text| {
            let is_painted = has_colours && self.columns[column].is_state;
            if is_painted { colour::of_state(text) } else { Tone::Plain }
        })
    }

    /// On standard output, with colours where it takes them.
    pub fn print(&self, rows: &[Row]) -> std::io::Result<()> {
        output::raw(self.text(rows, colour::is_on()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Row(&'static str, &'static str, u64);

    const FIELDS: [Field<Row>; 4] = [
        Field::new("unit", |row: &Row, _| row.0.to_owned()),
        Field::new("active", |row: &Row, _| row.1.to_owned())
            .by(|row| Key::state(row.1, &["active", "inactive", "failed"]))
            .state(),
        Field::new("since", |row: &Row, _| output::ago(row.2)).by(|row| Key::age(row.2)),
        Field::new("old", |row: &Row, _| row.0.to_owned()).deprecated(),
    ];
    const ROWS: [Row; 4] = [
        Row("b", "active", 1_000),
        Row("a@10", "failed", 3_000),
        Row("a@9", "inactive", 0),
        Row("c", "active", 2_000),
    ];

    fn shown(change: impl Fn(&mut ListFlags)) -> Result<String, FieldError> {
        let mut flags = ListFlags::default();
        change(&mut flags);
        let layout = Layout::new(&FIELDS, "unit,active", &flags)?;
        let mut rows = ROWS.to_vec();
        layout.sort(&mut rows);
        Ok(layout.text(&rows, false))
    }

    fn names_by(sort: &str) -> String {
        shown(|flags| {
            flags.output = Format::Name;
            flags.sort = Some(sort.to_owned());
        })
        .unwrap()
        .replace('\n', " ")
    }

    #[test]
    fn lists_are_sorted_by_what_their_cells_mean_and_else_stay_as_they_came() {
        assert_eq!(names_by("unit"), "a@9 a@10 b c ");
        assert_eq!(names_by("active"), "b c a@9 a@10 ");
        assert_eq!(names_by("-active"), "a@10 a@9 b c ");
        // The youngest is the least; what has no time comes last either way.
        assert_eq!(names_by("since"), "a@10 c b a@9 ");
        assert_eq!(names_by("-since"), "b c a@10 a@9 ");
        assert_eq!(names_by("active,-unit"), "c b a@9 a@10 ");
    }

    #[test]
    fn wide_has_all_fields_but_the_deprecated_and_name_only_the_first_column() {
        let wide = shown(|flags| flags.output = Format::Wide).unwrap();
        assert!(wide.starts_with("UNIT\tACTIVE\t\tSINCE\n"), "{wide}");
        assert_eq!(shown(|flags| flags.output = Format::Name).unwrap(), "b\na@10\na@9\nc\n");
        let chosen = shown(|flags| {
            flags.output = Format::Wide;
            flags.fields = Some("active".to_owned());
            flags.no_legend = true;
        });
        assert_eq!(chosen.unwrap(), "active\nfailed\ninactive\nactive\n");
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        assert_eq!(shown(|flags| flags.fields = Some(String::new())), Err(FieldError::Empty));
        let unknown = shown(|flags| flags.fields = Some("unit, active".to_owned())).unwrap_err();
        assert_eq!(unknown.to_string(), "Invalid key in output format: \" active\"");
        let unknown = shown(|flags| flags.sort = Some("unit,-age".to_owned())).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "Invalid key in --sort: \"-age\"; the fields of this list are unit active since old"
        );
    }

    #[test]
    fn states_are_coloured_without_moving_a_column() {
        let flags = ListFlags { no_legend: true, ..ListFlags::default() };
        let layout = Layout::new(&FIELDS, "active,unit", &flags).unwrap();
        assert_eq!(layout.text(&ROWS[1..3], true), "\x1b[31mfailed\x1b[0m\t\ta@10\ninactive\ta@9\n");
    }
}
