//! Tables whose cells are separated by TABs, laid out as fleet 1.0's, because scripts cut them.

use super::colour::{self, Tone};

const TAB: usize = 8;

/// Renders rows of equally many cells. With a header its cells count for the widths.
pub fn render(header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    render_in(header, rows, |_, _| Tone::Plain)
}

/// The same in colours, which take no width: `tone` is of a cell, by its column and text.
pub fn render_in(
    header: Option<&[String]>,
    rows: &[Vec<String>],
    tone: impl Fn(usize, &str) -> Tone,
) -> String {
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
    for (index, line) in lines.iter().enumerate() {
        let is_header = header.is_some() && index == 0;
        for (column, cell) in line.iter().enumerate() {
            let tone = if is_header { Tone::Plain } else { tone(column, cell) };
            out.push_str(&colour::paint(cell, tone));
            if column + 1 < columns {
                let tabs = (widths[column] - width(cell)).div_ceil(TAB);
                out.extend(std::iter::repeat_n('\t', tabs));
            }
        }
        out.push('\n');
    }
    out
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
}
