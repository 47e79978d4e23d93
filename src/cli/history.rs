//! `rbuild history`: the steps that an image was made by, newest first.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::context::print;
use super::format::Format;
use super::{Context, human, lookup};
use crate::graph::Platform;

/// `rbuild history IMAGE`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// `table`, `json`, or a Go template for each step
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Sizes and ages in words; =false gives bytes and times
    #[arg(
        short = 'H',
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    human: bool,
    /// Show whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// A step of the history.
struct Row {
    id: String,
    created: Option<i64>,
    by: String,
    size: u64,
    comment: String,
}

/// Characters of a command that a table shows.
const COMMAND_WIDTH: usize = 45;

/// Runs the command.
pub fn run(args: HistoryArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let format = Format::parse(args.format.as_deref())?;
    let store = context.store()?;
    let listed = lookup::find_for(&store, &args.image, args.platform.as_ref())?;
    let mut rows = rows(&listed.config(), &listed.layer_sizes(&store));
    if let Some(newest) = rows.first_mut() {
        let id = listed.image.id();
        newest.id = if args.no_trunc {
            id.to_string()
        } else {
            id.hex()[..12].to_owned()
        };
    }
    if args.quiet && format.is_table() {
        print(rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now().as_second();
    let fields: Vec<Value> = rows.iter().map(|row| row.fields(&args, now)).collect();
    let own = || {
        let columns = ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];
        let heads = columns.map(|column| headings(args.human)[column].clone());
        let cell = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut table = vec![heads.iter().map(cell).collect::<Vec<_>>()];
        table.extend(
            fields
                .iter()
                .map(|row| columns.map(|column| cell(&row[column])).to_vec()),
        );
        table
    };
    print(format.render(&fields, &headings(args.human), own)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The steps that `config` tells of, newest first, with the sizes of the layers that they made.
fn rows(config: &Value, sizes: &[u64]) -> Vec<Row> {
    let mut sizes = sizes.iter().copied();
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    let seconds = |time: &Value| Some(time.as_str()?.parse::<jiff::Timestamp>().ok()?.as_second());
    let mut rows: Vec<Row> = config["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|step| Row {
            id: "<missing>".to_owned(),
            created: seconds(&step["created"]),
            by: text(step, "created_by"),
            size: match step["empty_layer"].as_bool() {
                Some(true) => 0,
                _ => sizes.next().unwrap_or(0),
            },
            comment: text(step, "comment"),
        })
        .collect();
    // Layers that no step tells of; tools may write no history at all.
    rows.extend(sizes.map(|size| Row {
        id: "<missing>".to_owned(),
        created: seconds(&config["created"]),
        by: String::new(),
        size,
        comment: String::new(),
    }));
    rows.reverse();
    rows
}

impl Row {
    fn fields(&self, args: &HistoryArgs, now: i64) -> Value {
        let created = self
            .created
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        let at = created.map_or_else(|| "N/A".to_owned(), |time| time.to_string());
        let (since, size) = if args.human {
            (human::age(self.created, now), human::size(self.size))
        } else {
            (at.clone(), self.size.to_string())
        };
        let by = self.by.replace('\t', " ");
        json!({
            "Comment": self.comment,
            "CreatedAt": at,
            "CreatedBy": if args.no_trunc { by } else { human::ellipsis(&by, COMMAND_WIDTH) },
            "CreatedSince": since,
            "ID": self.id,
            "Size": size,
        })
    }
}

/// The heads of the columns.
fn headings(human: bool) -> Value {
    json!({
        "Comment": "COMMENT",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "CreatedSince": if human { "CREATED" } else { "CREATED AT" },
        "ID": "IMAGE",
        "Size": "SIZE",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_the_sizes_of_their_layers() {
        let config = json!({"created": "1970-01-01T00:00:07Z", "history": [
            {"created_by": "ADD a", "created": "1970-01-01T00:00:05Z"},
            {"created_by": "ENV b", "empty_layer": true, "comment": "c"},
            {"created_by": "RUN d"},
        ]});
        let seen = |sizes: &[u64]| -> Vec<(String, u64)> {
            rows(&config, sizes)
                .into_iter()
                .map(|row| (row.by, row.size))
                .collect()
        };
        let step = |by: &str, size| (by.to_owned(), size);
        assert_eq!(
            seen(&[3, 4]),
            [step("RUN d", 4), step("ENV b", 0), step("ADD a", 3)]
        );
        assert_eq!(seen(&[3])[0], step("RUN d", 0), "fewer layers than steps");
        assert_eq!(seen(&[3, 4, 5])[0], step("", 5), "a layer without a step");
        assert_eq!(rows(&json!({}), &[9])[0].size, 9);
        assert_eq!(rows(&config, &[3, 4])[2].created, Some(5));
    }
}
