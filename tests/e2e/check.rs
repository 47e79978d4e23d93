use serde_json::Value;

use crate::env::{Env, Run, as_every_user};

const DOUBTFUL: &str = "# BASE is what it stands on\nARG BASE=base\nFROM $BASE as one\n# LEVEL of noise\nARG LEVEL=3\nCMD echo $LEVEL\n\n# two is the other one\nFROM one AS two\n";

fn ask(env: &Env, flags: &[&str]) -> Run {
    let context = env.path("doubtful");
    let mut args = vec!["build"];
    args.extend(flags);
    args.push(context.to_str().unwrap());
    env.rbuild(args)
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

#[test]
fn a_check_tells_warnings_and_errors_and_builds_nothing() {
    as_every_user(|env| {
        env.base();
        env.write("doubtful/Dockerfile", DOUBTFUL);
        let run = ask(env, &["--check"]).fails(1);
        let rule = "--------------------";
        assert_eq!(
            run.stdout,
            format!(
                "Check complete, 2 warnings have been found!\n\n\
                 WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n\
                 'as' and 'FROM' keywords' casing do not match\n\
                 Dockerfile:3\n{rule}\n   1 |     # BASE is what it stands on\n   2 |     ARG BASE=base\n   3 | >>> FROM $BASE as one\n   4 |     # LEVEL of noise\n   5 |     ARG LEVEL=3\n{rule}\n\n\
                 WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n\
                 JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n\
                 Dockerfile:6\n{rule}\n   4 |     # LEVEL of noise\n   5 |     ARG LEVEL=3\n   6 | >>> CMD echo $LEVEL\n   7 |     \n   8 |     # two is the other one\n{rule}\n"
            )
        );
        ask(env, &["--call=check,ignorestatus"]).ok();
        let skipped = ["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"];
        let run = ask(env, &skipped).ok();
        assert_eq!(run.stdout, "Check complete, no warnings found.\n");

        let answer = json(&ask(env, &["--call=check,format=json"]).fails(1));
        let warning = &answer["warnings"][0];
        assert_eq!(warning["ruleName"], "FromAsCasing");
        assert_eq!(warning["location"]["ranges"][0]["start"]["line"], 3);
        assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
        assert!(answer.get("buildError").is_none());

        let answer = json(&ask(env, &["--call=check,format=sarif"]).fails(1));
        assert_eq!(answer["version"], "2.1.0");
        let results = &answer["runs"][0]["results"];
        assert_eq!(results[1]["ruleId"], "JSONArgsRecommended");
        let region = &results[1]["locations"][0]["physicalLocation"]["region"];
        assert_eq!(region["startLine"], 6);

        env.write("doubtful/Dockerfile", format!("{DOUBTFUL}STOPSIGNAL NOPE\n"));
        let run = ask(env, &["--check"]).fails(1);
        assert!(
            run.stdout.starts_with("Check complete, 2 warnings"),
            "{}",
            run.stdout
        );
        assert!(
            run.stderr.contains("Dockerfile:10\n") && run.stderr.contains("invalid signal: NOPE"),
            "{}",
            run.stderr
        );
        let answer = json(&ask(env, &["--call=check,format=json"]).fails(1));
        assert_eq!(answer["buildError"]["message"], "invalid signal: NOPE");
        ask(env, &["--check", "--target=one"]).fails(1);
        env.write("doubtful/Dockerfile", "FROM base\nRUN x \\\n");
        ask(env, &["--check"]).ok();
        env.write("doubtful/Dockerfile", "NOPE\n");
        let run = ask(env, &["--check"]).fails(1);
        assert!(
            run.stdout.is_empty() && run.stderr.contains("unknown instruction"),
            "{}",
            run.stderr
        );
        assert!(!env.rbuild(["images"]).ok().stdout.contains("doubtful"));
    });
}

#[test]
fn a_build_lists_its_warnings_at_its_end() {
    as_every_user(|env| {
        env.base();
        env.write("doubtful/Dockerfile", DOUBTFUL);
        let run = ask(env, &["--progress=plain"]).ok();
        let list = "\n 2 warnings found (use --check to expand):\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)\n - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 6)\n";
        assert!(run.stderr.ends_with(list), "{}", run.stderr);
        let run = ask(env, &["-q"]).ok();
        assert!(run.stderr.is_empty(), "{}", run.stderr);
        env.write("doubtful/Dockerfile", "FROM base\n");
        let run = ask(env, &["--progress=plain"]).ok();
        assert_eq!(run.count("warning"), 0, "{}", run.stderr);
    });
}

#[test]
fn targets_and_outlines_are_tables() {
    as_every_user(|env| {
        env.base();
        env.write("doubtful/Dockerfile", DOUBTFUL);
        let run = ask(env, &["--call=targets"]).ok();
        assert_eq!(
            run.stdout,
            "TARGET         DESCRIPTION\none            \ntwo (default)  is the other one\n"
        );
        let run = ask(env, &["--call=outline", "--build-arg=LEVEL=5"]).ok();
        assert_eq!(
            run.stdout,
            "TARGET:       two\nDESCRIPTION:  is the other one\n\nBUILD ARG  VALUE  DESCRIPTION\nBASE       base   is what it stands on\nLEVEL      5      of noise\n"
        );
        let answer = json(&ask(env, &["--call=outline,format=json", "--target=one"]).ok());
        assert_eq!(answer["name"], "one");
        assert_eq!(answer["args"][1]["value"], "3");
        let answer = json(&ask(env, &["--call=targets,format=json"]).ok());
        assert_eq!(answer["targets"][1]["default"], true);
        assert_eq!(answer["targets"][0]["base"], "$BASE");
        let run = ask(env, &["--call=subrequests.describe"]).ok();
        assert!(run.stdout.starts_with("NAME "), "{}", run.stdout);
        let answer = json(&ask(env, &["--call=subrequests.describe,format=json"]).ok());
        assert_eq!(answer[1]["name"], "frontend.outline");
        env.rbuild(["build", "--call=nope", "."]).fails(2);
        env.rbuild(["build", "--call=check", "--check", "."]).fails(2);
    });
}
