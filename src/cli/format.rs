//! `--format` of lists: a table, a table of some columns, JSON, or a Go template for each row.

use serde_json::Value;

use super::human;
use super::template::Template;

/// How rows are shown.
#[derive(Debug)]
pub enum Format {
    /// The command's own table.
    Table,
    /// One JSON object for each row.
    Json,
    /// A line for each row.
    Template(Template),
    /// A table of the columns that the template names, with heads.
    TableOf(Template),
}

impl Format {
    /// `table`, `table TEMPLATE`, `json` or a template; nothing is the command's own table.
    pub fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        Ok(match text {
            None | Some("" | "table") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => Self::TableOf(Template::parse(&columns.replace("\\t", "\t"))?),
                None => Self::Template(Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?),
            },
        })
    }

    /// Whether it is one that `--quiet` replaces by ids.
    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::TableOf(_))
    }

    /// Shows `rows`, whose fields have the heads `headings`; `table` makes the command's own table, heads included.
    pub fn render(
        &self,
        rows: &[Value],
        headings: &Value,
        table: impl FnOnce() -> Vec<Vec<String>>,
    ) -> anyhow::Result<String> {
        let lines = |template: &Template| -> anyhow::Result<Vec<String>> {
            rows.iter().map(|row| Ok(template.render(row)?)).collect()
        };
        Ok(match self {
            Self::Json => rows.iter().map(|row| format!("{row}\n")).collect(),
            Self::Template(template) => lines(template)?.iter().map(|line| format!("{line}\n")).collect(),
            Self::TableOf(template) => {
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut table = vec![cells(&template.render(headings)?)];
                table.extend(lines(template)?.iter().map(|line| cells(line)));
                human::table(&table)
            }
            Self::Table => human::table(&table()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind() {
        let rows = [json!({"A": "1", "B": "2"}), json!({"A": "3", "B": "4"})];
        let headings = json!({"A": "FIRST", "B": "SECOND"});
        let own = || vec![vec!["own".to_owned()]];
        for (format, wanted) in [
            (None, "own\n"),
            (Some("table"), "own\n"),
            (
                Some("json"),
                "{\"A\":\"1\",\"B\":\"2\"}\n{\"A\":\"3\",\"B\":\"4\"}\n",
            ),
            (Some("{{.A}}\\t{{.B}}"), "1\t2\n3\t4\n"),
            (
                Some("table {{.B}}\\t{{.A}}"),
                "SECOND    FIRST\n2         1\n4         3\n",
            ),
        ] {
            let shown = Format::parse(format)
                .unwrap()
                .render(&rows, &headings, own)
                .unwrap();
            assert_eq!(shown, wanted, "{format:?}");
        }
        assert!(Format::parse(Some("{{")).is_err());
    }
}
