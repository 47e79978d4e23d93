use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "S" => "set",
        "E" => "",
        "V" => "val",
        "P" => "80 81",
        "Q" => "aXbXc",
        "LIB" => "/usr/local/lib/libfoo.so.1.2.3",
        "URL" => "http://google.de",
        "STARS" => "a***yy*",
        "ODD" => "()[]{}^$.*?|\\x",
        "PATTERN" => "/?/",
        "PATH3" => "/a/foo/b/c.txt",
        "LINES" => "ax\nb",
        "é" => "accent",
        "KOREAN" => "한국어",
        _ => return None,
    };
    Some(value.to_owned())
}

fn check(cases: &[(&str, Result<&str, &str>)]) {
    for (word, expected) in cases {
        let found = Expander::new('\\').word(word, &lookup);
        let found = found
            .map(|expansion| expansion.text)
            .map_err(|error| error.reason);
        assert_eq!(
            found,
            expected.map(str::to_owned).map_err(str::to_owned),
            "{word}"
        );
    }
}

#[test]
fn plain_and_special_variables() {
    check(&[
        ("$S-${S}x", Ok("set-setx")),
        ("$é", Ok("accent")),
        ("${KOREAN}$KOREAN", Ok("한국어한국어")),
        ("$U${U}", Ok("")),
        ("$1$@$*$#$?$-$!$0", Ok("")),
        ("${1}${@}${-}${?}", Ok("")),
        ("$999aaa", Ok("aaa")),
        ("$$S", Ok("S")),
        ("a$", Ok("a$")),
        ("$.$(x)$/", Ok("$.$(x)$/")),
        ("${S}}", Ok("set}")),
        ("${}", Err("syntax error: bad substitution")),
        ("${:x}", Err("syntax error: bad substitution")),
        ("${{x}", Err("syntax error: bad substitution")),
        ("${", Err("syntax error: missing '}'")),
        ("${S", Err("syntax error: missing '}'")),
    ]);
}

#[test]
fn defaults_alternatives_and_requirements() {
    check(&[
        (
            "${S:-d} ${U:-d} ${E:-d} ${S-d} ${U-d} ${E-d}",
            Ok("set d d set d "),
        ),
        ("${S:+a} ${U:+a} ${E:+a} ${S+a} ${U+a} ${E+a}", Ok("a   a  a")),
        ("${S:?m}${S?m}${E?m}", Ok("setset")),
        ("${U:?must be given}", Err("U: must be given")),
        ("${E:?m $V}", Err("E: m val")),
        ("${U?}", Err("U: is not allowed to be unset")),
        ("${U:?}", Err("U: is not allowed to be unset")),
        ("${E:?}", Err("E: is not allowed to be empty")),
        ("${U:-\"q r\"}${U:-'$S'}", Ok("q r$S")),
        ("${U:-${V:-${S}x}}", Ok("val")),
        ("${U:-${U2:-${S}x}}", Ok("setx")),
        ("${U:-a\\}b}", Ok("a}b")),
        ("${S:=w}", Err("unsupported modifier (:=) in substitution")),
        ("${S:1:2}", Err("unsupported modifier (:1) in substitution")),
        ("${S^^}", Err("unsupported modifier (^) in substitution")),
        ("${S=w}", Err("unsupported modifier (=) in substitution")),
        ("${#S}", Err("unsupported modifier (S) in substitution")),
        ("${!S}", Err("unsupported modifier (S) in substitution")),
        ("${S:-x", Err("syntax error: missing '}'")),
        ("${U:-\"x}", Err("syntax error: missing '}'")),
    ]);
}

#[test]
fn prefixes_and_suffixes() {
    check(&[
        ("${LIB#*/}", Ok("usr/local/lib/libfoo.so.1.2.3")),
        ("${LIB##*/}", Ok("libfoo.so.1.2.3")),
        ("${LIB%.*}", Ok("/usr/local/lib/libfoo.so.1.2")),
        ("${LIB%%.*}", Ok("/usr/local/lib/libfoo")),
        ("${LIB#nomatch}", Ok("/usr/local/lib/libfoo.so.1.2.3")),
        ("${Q#a?b}", Ok("Xc")),
        ("${Q%X*}", Ok("aXb")),
        ("${Q%%X*}", Ok("a")),
        ("${Q##*X}", Ok("c")),
        ("${LIB#}", Ok("/usr/local/lib/libfoo.so.1.2.3")),
        ("${Q#[a-c]}", Ok("aXbXc")),
        ("${Q#*}", Ok("aXbXc")),
        ("${Q##*}", Ok("")),
        ("${STARS%%\\**\\*}", Ok("a")),
        ("${ODD#()[]{\\}^$.\\*\\?|\\\\}", Ok("x")),
        ("${U#x}", Ok("")),
        (
            "${S#\\a}",
            Err("invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ),
        ("${LINES%%x*}", Ok("ax\nb")),
        ("${LINES#*x}", Ok("\nb")),
    ]);
}

#[test]
fn replacements() {
    check(&[
        ("${Q/X/-}", Ok("a-bXc")),
        ("${Q//X/-}", Ok("a-b-c")),
        ("${Q/X/}${Q//X/}", Ok("abXcabc")),
        ("${Q/X*/-}", Ok("a-")),
        ("${Q//?X/<$0>}", Ok("<><>c")),
        ("${Q//?X/<\\$0>}", Ok("<\\aX><\\bX>c")),
        ("${URL/http:\\/\\//https:\\/\\/}", Ok("https:\\/\\/google.de")),
        ("${PATH3/$PATTERN/-}", Ok("-foo/b/c.txt")),
        ("${PATH3//$PATTERN/-}", Ok("-foo-c.txt")),
        ("${S/$E/ww}", Ok("wwset")),
        ("${S//$E/-}", Ok("-s-e-t-")),
        ("${S///}", Ok("set")),
        ("${S//s/a$1b}", Ok("abet")),
        ("${S/s}", Err("syntax error: missing '/' in ${}")),
        ("${S//s}", Err("syntax error: missing '/' in ${}")),
        ("${S/s/x", Err("syntax error: missing '}'")),
        (
            "${S/\\a/x}",
            Err("invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ),
    ]);
}

#[test]
fn x1_quotes_and_escapes() {
    check(&[
        ("'$S \\n'", Ok("$S \\n")),
        ("\"$S \\n \\\" \\$S \\\\\"", Ok("set \\n \" $S \\")),
        ("a\\nb\\$S\\\\\\ ", Ok("anb$S\\ ")),
        ("end\\", Ok("end")),
        (
            "\"a",
            Err("unexpected end of statement while looking for matching double-quote"),
        ),
        (
            "'a",
            Err("unexpected end of statement while looking for matching single-quote"),
        ),
        ("a\"b\"'c'd", Ok("abcd")),
        ("a  b", Ok("a  b")),
        ("a << b", Ok("a << b")),
    ]);
    let windows = Expander::new('`')
        .word("c:\\x`$S`` \"`\"\"", &lookup)
        .expect("backticks escape");
    assert_eq!(windows.text, "c:\\x$S` \"");
}

#[test]
fn x3_words() {
    for (word, expected) in [
        ("$P", &["80", "81"][..]),
        ("\"$P\"", &["80 81"]),
        ("a$P/tcp", &["a80", "81/tcp"]),
        ("$U", &[]),
        ("\"\"", &[]),
        ("a\\ b c", &["a b", "c"]),
    ] {
        assert_eq!(
            Expander::new('\\').words(word, &lookup).expect("words").words,
            expected,
            "{word}"
        );
    }
}

#[test]
fn l61_heredoc_bodies() {
    let expand = |body| {
        Expander::new('`')
            .heredoc(body, &lookup)
            .map(|expansion| expansion.text)
    };
    assert_eq!(
        expand("a\\nb \\$V $V \"q $V\" '$V'"),
        Ok("anb $V val \"q val\" 'val'".into())
    );
    assert_eq!(
        expand("a\\\nb `cmd` $(cmd) $U \\\\"),
        Ok("a\nb `cmd` $(cmd)  \\".into())
    );
    assert_eq!(expand("it's ${U:-\"x\"}"), Ok("it's \"x\"".into()));
}

#[test]
fn names_in_order_of_first_use() {
    let found = Expander::new('\\')
        .word("$V $U ${S} $U ${W:-$E} $V", &lookup)
        .expect("a word");
    assert_eq!(found.used, ["V", "S", "E"]);
    assert_eq!(found.undefined, ["U", "W"]);
}

#[test]
fn errors_quote_the_word() {
    let error = Expander::new('\\')
        .word("\"${NOPE:?must be given}\"", &lookup)
        .expect_err("it is not given");
    assert_eq!(
        error.to_string(),
        "failed to process \"\\\"${NOPE:?must be given}\\\"\": NOPE: must be given"
    );
}

#[test]
fn depth_and_growth_are_limited() {
    let nested = |depth| format!("{}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    assert_eq!(
        Expander::new('\\')
            .word(&nested(90), &lookup)
            .map(|found| found.text),
        Ok("x".into())
    );
    let error = Expander::new('\\')
        .word(&nested(200_000), &lookup)
        .expect_err("too deep");
    assert_eq!(error.reason, "substitutions are nested too deeply");
    let large = |_: &str| Some("x".repeat(1 << 20));
    assert!(Expander::new('\\').word(&"$a".repeat(100), &large).is_err());
    assert!(
        Expander::new('\\')
            .word(
                "${a//x/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}",
                &large
            )
            .is_err()
    );
}

#[test]
fn x2_the_escape_character_is_that_of_the_directive() {
    let word = |escape, word: &str| Expander::new(escape).word(word, &lookup).unwrap().text;
    assert_eq!(word('`', "`$S \\$S a`b \"`$S\""), "$S \\set ab $S");
    assert_eq!(word('\\', "`$S \\$S"), "`set $S");
    // Bodies of heredocs have a backslash whatever the directive says.
    let body = Expander::new('`').heredoc("`$S \\$S", &lookup).unwrap().text;
    assert_eq!(body, "`set $S");
}

#[test]
fn x4_nothing_else_is_expanded() {
    check(&[
        ("*?[ab]", Ok("*?[ab]")),
        ("~/x~root", Ok("~/x~root")),
        ("$(id)", Ok("$(id)")),
        ("`id`", Ok("`id`")),
        ("$((1+2))", Ok("$((1+2))")),
        ("{a,b}", Ok("{a,b}")),
    ]);
}

#[test]
fn x15_x19_unknown_names_are_empty_and_case_counts() {
    let found = Expander::new('\\').word("[$U][$s][$S]", &lookup).unwrap();
    assert_eq!(found.text, "[][][set]");
    assert_eq!(found.undefined, ["U", "s"]);
}
