//! The part of Go's text templates that `--format` is used with: fields, pipelines, `range`, `if`, `with`,
//! variables, and docker's functions (`json`, `join`, `split`, `lower`, `upper`, `title`, `truncate`, `pad`,
//! `println`). What it does not know is an error, never wrong output.

mod evaluation;
mod functions;
mod lexer;
mod parser;

use serde_json::Value;

use evaluation::Scope;
use parser::Node;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

/// A template that cannot be parsed or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template parsing error: {0}")]
pub struct TemplateError(String);

type Result<T> = std::result::Result<T, TemplateError>;

impl Template {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self> {
        parser::parse(text).map(Self)
    }

    /// The text for `data`.
    pub fn render(&self, data: &Value) -> Result<String> {
        let mut scope = Scope::new(data);
        scope.nodes(&self.0, data)?;
        Ok(scope.finish())
    }
}

fn fail(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        let data = serde_json::json!({
            "Id": "sha256:ab", "Size": 4, "Nothing": null,
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}, "Cmd": []},
        });
        match Template::parse(template).and_then(|t| t.render(&data)) {
            Ok(text) => text,
            Err(error) => format!("ERROR {error}"),
        }
    }

    #[test]
    fn what_people_write() {
        for (template, wanted) in [
            ("{{.Id}} {{ .Size }}", "sha256:ab 4"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            (
                "{{.Config.Env}}|{{.Config.Labels}}|{{.Nothing}}",
                "[A=1 B=2]|map[a:1 b:2]|<no value>",
            ),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            (
                "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
                "a=1;b=2;",
            ),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
            ("{{index .Config.Labels \"a\"}}{{index .Config.Env 1}}", "1B=2"),
            ("{{index (split .Id \":\") 1 | upper}}", "AB"),
            ("{{if and .Size (eq .Id \"sha256:ab\")}}y{{else}}n{{end}}", "y"),
            ("{{with .Config}}{{len .Env}}{{$.Size}}{{end}}", "24"),
            ("a {{- /* no */ -}} b {{- .Size -}} c", "ab4c"),
            ("{{join .Config.Env \",\"}}{{\"\\n}}\"}}", "A=1,B=2\n}}"),
            ("{{if eq .Size 3}}a{{else if eq .Size 4}}b{{else}}c{{end}}", "b"),
            ("{{with .Nothing}}a{{else with .Id}}{{.}}{{end}}", "sha256:ab"),
            (
                "{{$id := .Id}}{{range .Config.Env}}{{$id}} {{$id = .}}{{end}}{{$id}}",
                "sha256:ab A=1 B=2",
            ),
            ("{{(index .Config.Labels \"a\")}}{{(.Config).Labels.b}}", "12"),
            (
                "{{printf \"%-4s|%4d|%04d|%x|%q|%v%%\" \"ab\" .Size .Size 255 \"c\" .Config.Env}}",
                "ab  |   4|0004|ff|\"c\"|[A=1 B=2]%",
            ),
            (
                "{{printf \"%s:%s\" (slice .Id 7) (slice .Id 0 3) | upper}}",
                "AB:SHA",
            ),
            ("{{lt 1 2}}{{ge \"a\" \"b\"}}", "truefalse"),
            ("{{title \"ab cd\"}}{{truncate .Id 3}}", "Ab Cdsha"),
        ] {
            assert_eq!(render(template), wanted, "{template}");
        }
    }

    #[test]
    fn what_is_unknown_is_an_error() {
        for template in [
            "{{.Nope}}",
            "{{nosuch .Id}}",
            "{{.Id",
            "{{end}}",
            "{{if .Id}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{}}",
            "{{.Id | .Size}}",
            "{{$x}}",
            "{{\"a}}",
            "{{printf \"%s\"}}",
            "{{printf \"%s\" 1 2}}",
            "{{printf \"%z\" .Id}}",
            "{{printf \"%\" .Id}}",
            "{{printf \"%99999999s\" .Id}}",
            "{{slice .Id 9 3}}",
            "{{lt 1 .Id}}",
            "{{$new = 1}}",
            "{{if .Id}}{{else with .Id}}{{end}}",
            "{{if .Id}}{{else}}{{else}}{{end}}",
            "{{range .Config.Env}}{{else range .Config.Env}}{{end}}",
            "{{if .Id}}{{$x := 1}}{{end}}{{$x}}",
            "{{range .Size}}{{end}}",
            "{{define \"x\"}}{{end}}",
            "{{.Id.X}}",
            "{{|}}",
        ] {
            assert!(render(template).starts_with("ERROR"), "{template}");
        }
        let deep = "{{if 1}}".repeat(1000);
        assert!(render(&deep).starts_with("ERROR"));
        let deep = format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(1000));
        assert!(render(&deep).starts_with("ERROR"));
        assert!(render(&format!("{{{{{}", "(".repeat(1000) + "}}")).starts_with("ERROR"));
    }
}
