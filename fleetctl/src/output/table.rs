//! Tables whose cells are separated by TABs, laid out as fleet 1.0's, because scripts cut them.

const TAB: usize = 8;

/// Renders rows of equally many cells. With a header its cells count for the widths.
pub fn render(header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    let lines: Vec<&[String]> = header.into_iter().chain(rows.iter().map(Vec::as_slice)).collect();
    let columns = lines.first().map_or(0, |line| line.len());
    let width = |cell: &String| cell.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let longest = lines.iter().map(|line| width(&line[column])).max().unwrap_or(0);
            (longest + 1).div_ceil(TAB) * TAB
        })
        .collect();
    let mut out = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < columns {
                let tabs = (widths[column] - width(cell)).div_ceil(TAB);
                out.extend(std::iter::repeat_n('\t', tabs));
            }
        }
        out.push('\n');
    }
    out
}

/// One column that a list can show: its name for `--fields`, and the cell.
pub struct Field<Row> {
    pub name: &'static str,
    pub cell: fn(&Row, full: bool) -> String,
}

/// Why the fields asked for cannot be shown; printed as they are.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("Must define output format")]
    Empty,
    #[error("Invalid key in output format: {0:?}")]
    Unknown(String),
}

/// The table of `rows` with the fields of `wanted`, separated by commas.
pub fn list<Row>(
    fields: &[Field<Row>],
    wanted: &str,
    rows: &[Row],
    full: bool,
    legend: bool,
) -> Result<String, FieldError> {
    if wanted.is_empty() {
        return Err(FieldError::Empty);
    }
    let columns: Vec<&Field<Row>> = wanted
        .split(',')
        .map(|name| {
            fields.iter().find(|field| field.name == name).ok_or_else(|| FieldError::Unknown(name.to_owned()))
        })
        .collect::<Result<_, _>>()?;
    let header: Vec<String> = columns.iter().map(|field| field.name.to_uppercase()).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|field| (field.cell)(row, full)).collect()).collect();
    Ok(render(legend.then_some(header.as_slice()), &cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn cells_are_padded_with_tabs_as_fleet_1_does() {
        let header = row(&["UNIT", "HASH", "DSTATE", "STATE", "TARGET"]);
        let rows = [row(&["hello.service", "95d57ff", "inactive", "inactive", "-"])];
        assert_eq!(
            render(Some(&header), &rows),
            "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\nhello.service\t95d57ff\tinactive\tinactive\t-\n"
        );
    }

    #[test]
    fn a_cell_of_eight_needs_the_next_stop_and_empty_cells_are_filled() {
        assert_eq!(render(None, &[row(&["12345678", "x"]), row(&["", "y"])]), "12345678\tx\n\t\ty\n");
        assert_eq!(render(None, &[row(&["1234567", "x"]), row(&["", "y"])]), "1234567\tx\n\ty\n");
        assert_eq!(render(None, &[row(&["", "x"])]), "\tx\n");
    }

    #[test]
    fn widths_are_counted_in_characters() {
        assert_eq!(
            render(None, &[row(&["\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", "x"])]),
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\tx\n"
        );
    }

    #[test]
    fn an_empty_list_is_its_header() {
        assert_eq!(render(Some(&row(&["MACHINE", "IP", "METADATA"])), &[]), "MACHINE\tIP\tMETADATA\n");
        assert_eq!(render(None, &[]), "");
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        let fields = [Field::<u8> { name: "unit", cell: |row, _| row.to_string() }];
        assert_eq!(list(&fields, "", &[], false, true), Err(FieldError::Empty));
        let unknown = list(&fields, "unit, hash", &[], false, true).unwrap_err();
        assert_eq!(unknown.to_string(), "Invalid key in output format: \" hash\"");
        assert_eq!(list(&fields, "unit,unit", &[7], false, false).unwrap(), "7\t7\n");
    }
}
