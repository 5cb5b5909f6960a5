//! The language of Dockerfiles, statement by statement (the Dockerfile reference), each on a real build.

use berth_tests::{
    Engine,
    build::{dockerfile, started},
    image::Tar,
};
use serde_json::{Value, json};

async fn config(engine: &Engine, name: &str) -> Value {
    let path = format!("/images/{name}/json");
    engine.api.get(&path).await.expect(200).json()["Config"].clone()
}

/// What the lines of a Dockerfile upon busybox make of the configuration.
async fn made(engine: &Engine, lines: &str) -> Value {
    let text = format!("FROM busybox\n{lines}\n");
    engine.build(&[("t", "made")], dockerfile(&text)).await.ok();
    config(engine, "made").await
}

#[tokio::test]
async fn lines_comments_and_directives() {
    let engine = started().await;
    let text = "\u{feff}# syntax=docker/dockerfile:1\n#  Check = skip=all;error=true \n\n# a comment # FROM nothing\n   from busybox\n\
        \x20  # indented\nRUN echo '# no comment' \\\n# a comment inside\n   and\\\n   more \\\n\n\n   after gaps\n\
        run echo \"\\\n     hello\\\n     world\"\nRun [\"echo\", \"a\\\\nb\", \"$HOME\"]\nRUN echo end \\";
    let told = engine.build(&[], dockerfile(text)).await.ok();
    for line in [
        "# no comment and more after gaps\n",
        "     hello     world\n",
        "a\\nb $HOME\n",
        "[WARNING]: Empty continuation line found in:\n    RUN echo '# no comment'",
        "Empty continuation lines will become errors in a future release.",
    ] {
        assert!(told.contains(line), "{line:?}: {told}");
    }
    let text = "# escape=`\n\nFROM busybox\nENV A=c:\\dir B=`$A `\n    C=\"x`\"y\"\nRUN echo one`\n two\\; echo $A\nCOPY f c:\\\n";
    engine
        .build(&[("t", "made")], dockerfile(text).file("f", 0o644, "f"))
        .await
        .ok();
    let env = config(&engine, "made").await["Env"].clone();
    let env = env.to_string();
    assert!(env.contains(r#""A=c:\\dir","B=$A","C=x\"y""#), "{env}");
    assert_eq!(engine.read_in("made", "cat 'c:\\'").await, "f");
    let crlf = "FROM busybox\r\nRUN echo a \\\r\n  b\r\nCMD [\"x\"]\r\n";
    assert!(engine.build(&[], dockerfile(crlf)).await.ok().contains("a   b\n"));
    engine.finish().await;
}

#[tokio::test]
async fn mistakes_are_told_with_their_lines() {
    let engine = started().await;
    for (text, words) in [
        ("FROM busybox\n\nFOO x\n", "line 3: unknown instruction: FOO"),
        (
            "FROM busybox\nRUN a \\\n b\nCOPY x\n",
            "line 4: COPY requires at least two arguments",
        ),
        (
            "ENV A=1\nFROM busybox\n",
            "line 1: no build stage in current context",
        ),
        ("# escape=x\nFROM busybox\n", "invalid escape token"),
        (
            "# escape=`\n# escape=`\nFROM busybox\n",
            "only one escape parser directive can be used",
        ),
        ("FROM busybox\nENV A\n", "line 2: ENV must have two arguments"),
        ("FROM busybox\nENV =x\n", "line 2: ENV names can not be blank"),
        (
            "FROM busybox\nLABEL\n",
            "line 2: LABEL requires at least one argument",
        ),
        (
            "FROM busybox\nCMD [1, \"a\"]\n",
            "line 2: when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "FROM busybox\nSHELL echo\n",
            "line 2: SHELL requires the arguments to be in JSON form",
        ),
        ("FROM busybox\nCOPY --nope a b\n", "line 2: unknown flag: --nope"),
        ("FROM busybox\nRUN --mount=type=cache\n", "line 2"),
        ("FROM busybox\nHEALTHCHECK --interval=x CMD a\n", "line 2"),
        (
            "FROM busybox\nHEALTHCHECK --retries=-1 CMD a\n",
            "line 2: --retries cannot be negative",
        ),
        (
            "FROM busybox\nONBUILD FROM x\n",
            "line 2: FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM busybox\nONBUILD MAINTAINER x\n",
            "line 2: MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM busybox\nONBUILD ONBUILD RUN x\n",
            "line 2: Chaining ONBUILD",
        ),
        ("FROM busybox\nRUN <<EOF\nx\n", "line 2: unterminated heredoc"),
        (
            "FROM busybox AS a-\nFROM busybox AS 1\n",
            "line 2: invalid name for build stage",
        ),
        (
            "FROM busybox as x y\n",
            "line 1: FROM requires either one or three arguments",
        ),
        ("FROM ${X\n", "line 1"),
        (
            "FROM busybox\nSTOPSIGNAL a b\n",
            "line 2: STOPSIGNAL requires exactly one argument",
        ),
        ("FROM scratch\nCOPY --from=0 a b\n", "invalid from flag value 0"),
        (
            "FROM scratch\nCOPY --from=1 a b\nFROM scratch\nCOPY --from=0 a b\n",
            "invalid from flag value 1",
        ),
    ] {
        let message = engine.build_refused(&[], dockerfile(text).finish()).await;
        assert!(message.contains(words), "{text:?}: {message}");
    }
    for (lines, words) in [
        ("STOPSIGNAL SIGNONE", "invalid signal: SIGNONE"),
        ("EXPOSE 99999", "Invalid containerPort: 99999"),
        ("EXPOSE 90-80", "Invalid containerPort"),
        ("ENV A=\"${B:?is not there}\"", "B: is not there"),
        ("ENV A=${B:=x}", "unsupported modifier (:=)"),
        ("WORKDIR $NOTHING", "WORKDIR"),
        (
            "COPY nope /x",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
        ),
        ("ADD no*pe /x", "no source files were specified"),
        (
            "COPY f g /x",
            "the destination must be a directory and end with a /",
        ),
        (
            "COPY [fg] /x",
            "the destination must be a directory and end with a /",
        ),
        ("COPY d /f", "cannot copy to non-directory"),
        (
            "COPY --chown=nobody-here f /x",
            "can't find uid for user nobody-here",
        ),
        ("COPY --chmod=9 f /x", "invalid chmod parameter: '9'"),
        ("COPY --from=not-there:1 f /x", "not-there"),
        ("RUN --mount=type=nope,target=/x true", "unsupported mount type"),
        ("RUN --mount=type=bind,source=none,target=/x true", "not found"),
        (
            "RUN --mount=type=secret,id=s,required true",
            "secret s: not found",
        ),
        ("RUN --mount=type=ssh,required true", "ssh"),
        (
            "RUN --security=insecure true",
            "granting entitlement security.insecure is not allowed",
        ),
        (
            "RUN --network=host true",
            "granting entitlement network.host is not allowed",
        ),
        ("RUN --network=nope true", "unsupported network mode"),
        ("RUN /nothing/here", "returned a non-zero code: 127"),
        ("RUN [\"/nothing/here\"]", "no such file or directory"),
    ] {
        let text = format!("FROM busybox\nRUN echo x > /f\n{lines}\n");
        let context = dockerfile(&text)
            .file("f", 0o644, "")
            .file("g", 0o644, "")
            .file("d/x", 0o644, "");
        let error = engine.build(&[("forcerm", "1")], context).await.fails();
        assert!(error.contains(words), "{lines}: {error}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn variables_have_scopes() {
    let engine = started().await;
    let text = "ARG BASE=busybox\nARG V=global\nARG N\nFROM ${BASE:-nothing} AS one\nRUN echo \"1[$V]\"\nARG V\nRUN echo \"2[$V]\"\n\
        ARG V=local W=\"$V plus\" U\nRUN echo \"3[$V][$W][${U-unset}][$N]\"\nENV V=env\nRUN echo \"4[$V]\"\nARG V=late\nRUN echo \"5[$V]\"\n\
        ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\nRUN echo \"6[$def][$ghi]\"\n\
        FROM one\nRUN echo \"7[$V][$W]\"\nARG W\nRUN echo \"8[$W][${TARGETARCH-none}]\"\nARG TARGETARCH TARGETPLATFORM BUILDOS\n\
        RUN echo \"9[$TARGETARCH][$TARGETPLATFORM][$BUILDOS]\"\nUSER ${who:-0}\nARG who=5\nUSER ${who:-0}\n";
    let told = engine.build(&[("t", "made")], dockerfile(text)).await.ok();
    let arch = engine.api.get("/version").await.expect(200).json()["Arch"]
        .as_str()
        .expect("a text")
        .to_owned();
    for line in [
        "1[]\n",
        "2[global]\n",
        "3[local][global plus][unset][]\n",
        "4[env]\n",
        "5[env]\n",
        "6[hello][bye]\n",
        "7[env][]\n",
        "8[][none]\n",
        &format!("9[{arch}][linux/{arch}][linux]\n"),
    ] {
        assert!(told.contains(&format!("\n{line}")), "{line}: {told}");
    }
    assert_eq!(config(&engine, "made").await["User"], "5");
    let given = json!({"V": "given", "W": "", "N": null, "who": "7", "HTTP_PROXY": "http://u:secret@p", "NOT": "used"}).to_string();
    let told = engine
        .build(&[("t", "made"), ("buildargs", &given)], dockerfile(text))
        .await
        .ok();
    for line in [
        "2[given]\n",
        "3[given][][unset][]\n",
        "4[env]\n",
        "[Warning] One or more build-args [NOT] were not consumed\n",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(config(&engine, "made").await["User"], "7");
    // Proxies reach the commands and nothing else, and do not count for the cache.
    let text = "FROM busybox\nRUN echo \"[$HTTP_PROXY][$http_proxy]\"\n";
    for proxy in ["secret-one", "secret-two"] {
        let given = json!({"HTTP_PROXY": proxy, "http_proxy": proxy}).to_string();
        let told = engine
            .build(&[("t", "made"), ("buildargs", &given)], dockerfile(text))
            .await
            .ok();
        assert!(
            told.contains("[secret-one][secret-one]\n") != told.contains("Using cache"),
            "{told}"
        );
    }
    let history = engine.api.get("/images/made/history").await.expect(200).text();
    assert!(!history.contains("secret-"), "{history}");
    // An argument counts from where it is used on, not from where it is declared.
    let text = "FROM busybox\nRUN echo before\nARG X=1\nRUN echo with $X\n";
    engine.build(&[], dockerfile(text)).await.ok();
    let told = engine
        .build(&[("buildargs", "{\"X\":\"2\"}")], dockerfile(text))
        .await
        .ok();
    assert!(
        told.contains("with 2\n") && told.matches("Using cache").count() >= 1,
        "{told}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn instructions_that_describe() {
    let engine = started().await;
    let seen = made(
        &engine,
        "ENV old form  of 'it'\nENV ONE TWO= THREE=world\nENV MY_NAME=\"John Doe\" MY_DOG=Rex\\ The\\ Dog \\\n    MY_CAT=fluffy EMPTY=\n\
         LABEL \"com.example.vendor\"=\"ACME Incorporated\" com.example.label-with-value=foo\nLABEL description=\"two\\\nlines\" q='single $MY_CAT' \"d\"=\"$MY_CAT\" e=\n\
         EXPOSE 80 443/tcp 53/UDP 8000-8002/sctp $NOPE\nVOLUME [\"/a b\", \"/c\"]\nVOLUME /d /e\nVOLUME /f\n\
         STOPSIGNAL SIGRTMIN+3\nUSER me:grp\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c/./d\nMAINTAINER Some One <x@y>\n\
         SHELL [\"/bin/sh\", \"-ec\"]\nHEALTHCHECK --interval=1m30s --timeout=3s --start-period=2s --start-interval=500ms --retries=4 CMD test -f /x || exit 1\n\
         CMD echo   \"x\"",
    )
    .await;
    let env = seen["Env"].to_string();
    for entry in [
        "old=form  of it",
        "ONE=TWO= THREE=world",
        "MY_NAME=John Doe",
        "MY_DOG=Rex The Dog",
        "MY_CAT=fluffy",
        "EMPTY=",
    ] {
        assert!(env.contains(&format!("\"{entry}\"")), "{entry}: {env}");
    }
    assert_eq!(
        seen["Labels"],
        json!({"com.example.vendor": "ACME Incorporated", "com.example.label-with-value": "foo", "description": "twolines",
               "q": "single $MY_CAT", "d": "fluffy", "e": ""})
    );
    let keys = |value: &Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    assert_eq!(
        keys(&seen["ExposedPorts"]),
        [
            "443/tcp",
            "53/udp",
            "80/tcp",
            "8000/sctp",
            "8001/sctp",
            "8002/sctp"
        ]
    );
    assert_eq!(keys(&seen["Volumes"]), ["/a b", "/c", "/d", "/e", "/f"]);
    assert_eq!(
        (&seen["StopSignal"], &seen["User"], &seen["WorkingDir"]),
        (&json!("SIGRTMIN+3"), &json!("me:grp"), &json!("/a/c/d"))
    );
    assert_eq!(seen["Shell"], json!(["/bin/sh", "-ec"]));
    assert_eq!(seen["Cmd"], json!(["/bin/sh", "-ec", "echo   \"x\""]));
    let health = json!({"Test": ["CMD-SHELL", "test -f /x || exit 1"], "Interval": 90_000_000_000_i64, "Timeout": 3_000_000_000_i64,
                        "StartPeriod": 2_000_000_000, "Retries": 4});
    for (key, value) in health.as_object().expect("an object") {
        assert_eq!(&seen["Healthcheck"][key], value, "{key}");
    }
    let image = engine.api.get("/images/made/json").await.expect(200).json();
    assert_eq!(image["Author"], "Some One <x@y>");

    for (lines, key, expected) in [
        ("CMD [\"a\", \"b\"]\nENTRYPOINT [\"c\"]", "Cmd", json!(["a", "b"])),
        ("CMD [\"a\"]\nCMD [\"b\"]", "Cmd", json!(["b"])),
        (
            "ENTRYPOINT [\"a\"]\nENTRYPOINT exec top -b",
            "Entrypoint",
            json!(["/bin/sh", "-c", "exec top -b"]),
        ),
        ("CMD ['single']", "Cmd", json!(["/bin/sh", "-c", "['single']"])),
        ("CMD []", "Cmd", json!(null)),
        ("ENTRYPOINT [\"a\"]\nENTRYPOINT []", "Entrypoint", json!(null)),
        (
            "HEALTHCHECK CMD [\"a\", \"b\"]",
            "Healthcheck",
            json!({"Test": ["CMD", "a", "b"]}),
        ),
        (
            "HEALTHCHECK CMD a\nHEALTHCHECK NONE",
            "Healthcheck",
            json!({"Test": ["NONE"]}),
        ),
        (
            "ONBUILD RUN a && \\\n b\nONBUILD COPY [\"x\", \"y\"]",
            "OnBuild",
            json!(["RUN a &&  b", "COPY [\"x\", \"y\"]"]),
        ),
        ("STOPSIGNAL 9", "StopSignal", json!("9")),
        (
            "ENV P=a\nWORKDIR /${P}/$P\nWORKDIR $P",
            "WorkingDir",
            json!("/a/a/a"),
        ),
    ] {
        assert_eq!(made(&engine, lines).await[key], expected, "{lines}");
    }
    // What the base has as CMD goes with an ENTRYPOINT of its own.
    engine
        .build(
            &[("t", "base")],
            dockerfile("FROM busybox\nCMD [\"of\", \"base\"]\n"),
        )
        .await
        .ok();
    for (text, cmd) in [
        ("FROM base\n", json!(["of", "base"])),
        ("FROM base\nENTRYPOINT [\"x\"]\n", json!(null)),
        ("FROM base\nCMD [\"own\"]\nENTRYPOINT [\"x\"]\n", json!(["own"])),
    ] {
        engine
            .build(&[("t", "made")], dockerfile(&format!("{text}LABEL x=y\n")))
            .await
            .ok();
        assert_eq!(config(&engine, "made").await["Cmd"], cmd, "{text}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn heredocs_of_every_kind() {
    let engine = started().await;
    let text = "FROM busybox\nARG N=name\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN <<EOF\necho \"plain $N\"\n  if true; then\n    echo nested\n  fi\nEOF\n\
        RUN <<-'EOF'\n\techo 'tabs are gone' \"$N\"\n\tEOF\nRUN cat /dev/fd/3 - 3<<\"A\" <<B > /both\nquoted $N \\\nA\n$(echo sub)\nB\n\
        RUN <<EOF sh\necho by a program\nEOF\nRUN <<EOF\n#!/bin/cat\na script of its own\nEOF\n\
        COPY <<EOF <<\"Q\" <<-T /t/\nvalue ${N} \\$N 'q'\nEOF\nvalue ${N}\nQ\n\t\ttabs\n\tT\nCOPY --chmod=741 --chown=3:4 <<EOF /one\n# kept $N\n\nEOF\n\
        ADD <<EOF /two\nx\nEOF\nRUN echo <<< here; echo 1 << 2; true\nONBUILD RUN <<EOF\necho triggered\nEOF\n";
    let text = text.replace("RUN echo <<< here; echo 1 << 2; true\n", "RUN echo 'a <<< b'\n");
    let told = engine.build(&[("t", "made")], dockerfile(&text)).await.ok();
    for line in [
        "plain name\nnested\n",
        "tabs are gone name\n",
        "by a program\n",
        "a script of its own\n",
        "a <<< b\n",
    ] {
        assert!(told.contains(line), "{line:?}: {told}");
    }
    let seen = engine
        .read_in(
            "made",
            "cat /both /t/EOF /t/Q /t/T /one /two; stat -c '%a %u:%g' /one /two /t/EOF",
        )
        .await;
    assert_eq!(
        seen,
        "quoted $N \\\nsub\nvalue name $N 'q'\nvalue ${N}\ntabs\n# kept name\n\nx\n741 3:4\n644 0:0\n644 0:0\n"
    );
    let told = engine.build(&[], dockerfile("FROM made\n")).await.ok();
    assert!(told.contains("triggered\n"), "{told}");
    let failed = engine
        .build(
            &[("forcerm", "1")],
            dockerfile("FROM busybox\nRUN <<EOF\nfalse\nexit 3\nEOF\n"),
        )
        .await;
    assert_eq!(failed.code, 3);
    engine.finish().await;
}

#[tokio::test]
async fn copies_go_where_they_should() {
    let engine = started().await;
    let text = "FROM busybox AS from\nRUN mkdir -p /src/deep && echo d > /src/deep/d && ln -s deep /src/l && mkfifo /src/fifo && chown -R 3:4 /src && chmod 700 /src/deep\n\
        FROM busybox\nRUN echo 'me:x:50:60::/:' >> /etc/passwd && echo 'us:x:70:' >> /etc/group && mkdir /there && ln -s /there /to-there\n\
        USER me\nWORKDIR /w\nCOPY f .\nCOPY f ./g\nCOPY f rel/\nCOPY f /there\nCOPY f /to-there/h\nCOPY d /there\nCOPY d/ /new/deep\nCOPY l /followed\nCOPY lf /linked/\nCOPY f d/x /many/\n\
        COPY ../../f /outside\nCOPY /f /absolute\nCOPY [\"a b\", \"/a b/\"]\nCOPY --chown=me f /by/name\nCOPY --chown=me:us f /by/both\nCOPY --chown=9 f /by/number\nCOPY --chown=9:us d /by/d\n\
        COPY --chmod=u=rwX,go=rX modes /modes\nCOPY --chmod=g=u,o= modes /modes2\nCOPY --chmod=0711 d /modes3\n\
        COPY --from=from /src /copied\nCOPY --from=0 --chown=8 /src/deep /chowned/\nCOPY --from=busybox /bin/busybox /bb/\n\
        COPY --parents p/./q/r.txt p/q/s /parents/\nCOPY --parents ./p/**/*.txt /globbed/\nCOPY --parents p/./q/*.txt /pivot/\n\
        COPY --exclude=*.md --exclude=x/skip docs /docs/\nCOPY --exclude=*.txt hom* /hom/\nCOPY hom?.txt /q/\nCOPY hom[a-b].txt /classes/\nCOPY arr[[]0].txt /arr/\n\
        RUN id -u\n";
    let context = dockerfile(text)
        .file("f", 0o755, "f")
        .file("d/x", 0o640, "x")
        .directory("d/empty", 0o711)
        .symlink("l", "d")
        .symlink("lf", "f")
        .file("a b", 0o644, "blank")
        .file("modes/run", 0o700, "")
        .file("modes/data", 0o600, "")
        .directory("modes/dir", 0o700)
        .file("p/q/r.txt", 0o644, "r")
        .file("p/q/s/t.txt", 0o644, "t")
        .file("p/q/s/u.md", 0o644, "u")
        .file("docs/a.md", 0o644, "")
        .file("docs/x/skip", 0o644, "")
        .file("docs/x/b.md", 0o644, "")
        .file("docs/x/keep", 0o644, "")
        .file("homa.txt", 0o644, "")
        .file("homb.txt", 0o644, "")
        .file("home", 0o644, "")
        .file("arr[0].txt", 0o644, "");
    let told = engine.build(&[("t", "made")], context).await.ok();
    assert!(told.contains("\n50\n"), "USER counts for RUN: {told}");
    let list = "find /w /there /new /followed /linked /many /outside /absolute '/a b' /copied /chowned /bb /parents /globbed /pivot /docs /hom /q /classes /arr \
        ! -type d | sort";
    let seen = engine.read_in("made", list).await;
    let expected = "/a b/a b\n/absolute\n/arr/arr[0].txt\n/bb/busybox\n/chowned/d\n/classes/homa.txt\n/classes/homb.txt\n/copied/deep/d\n/copied/fifo\n/copied/l\n\
        /docs/x/b.md\n/docs/x/keep\n/followed/x\n/globbed/p/q/r.txt\n/globbed/p/q/s/t.txt\n/hom/home\n/linked/lf\n/many/f\n/many/x\n/new/deep/x\n/outside\n\
        /parents/p/q/s/t.txt\n/parents/p/q/s/u.md\n/parents/q/r.txt\n/pivot/q/r.txt\n/q/homa.txt\n/q/homb.txt\n/q/home\n/there/f\n/there/h\n/there/x\n/w/f\n/w/g\n/w/rel/f\n";
    assert_eq!(
        seen,
        expected.replace(
            "/q/homa.txt\n/q/homb.txt\n/q/home\n",
            "/q/homa.txt\n/q/homb.txt\n"
        )
    );
    let modes = "stat -c '%a %u:%g %n' /w /w/f /there/empty /there/x /by/name /by/both /by/number /by/d /by/d/x /modes/run /modes/data /modes/dir \
        /modes2/run /modes2/data /modes3/x /modes3/empty /copied/deep /copied/deep/d /chowned/d";
    let seen = engine.read_in("made", modes).await;
    assert_eq!(
        seen,
        "755 0:0 /w\n755 0:0 /w/f\n711 0:0 /there/empty\n640 0:0 /there/x\n755 50:50 /by/name\n755 50:70 /by/both\n755 9:9 /by/number\n755 9:70 /by/d\n640 9:70 /by/d/x\n\
         755 0:0 /modes/run\n644 0:0 /modes/data\n755 0:0 /modes/dir\n770 0:0 /modes2/run\n660 0:0 /modes2/data\n711 0:0 /modes3/x\n711 0:0 /modes3/empty\n\
         700 3:4 /copied/deep\n644 3:4 /copied/deep/d\n644 8:8 /chowned/d\n"
    );
    engine.finish().await;
}

#[tokio::test]
async fn ignore_files_follow_docker_s_rules() {
    let engine = started().await;
    let files = [
        "a.md",
        "b/a.md",
        "b/c/a.md",
        "b/keep.md",
        "x.tmp",
        "b/x.tmp",
        "b/c/x.tmp",
        "node_modules/m/i",
        "src/node_modules/m",
        "t1",
        "t2",
        " sp",
        "#hash",
        "z/y",
    ];
    for (ignore, left) in [
        ("*.md\n", "b/a.md b/c/a.md b/keep.md x.tmp"),
        ("**/*.md\n!b/keep.md\n", "b/keep.md x.tmp"),
        ("*\n!b\n", "b/a.md b/c/a.md b/keep.md b/x.tmp"),
        ("*\n!b\nb/c\n", "b/a.md b/keep.md b/x.tmp"),
        ("**\n!**/keep.md\n", "b/keep.md"),
        ("b\n!b/keep.md\n", "a.md b/keep.md"),
        ("/b/\n", "a.md x.tmp"),
        ("./b/../b\n", "a.md x.tmp"),
        ("b/*\n!b/c\n", "b/c/a.md b/c/x.tmp"),
        ("*/*.tmp\n*/*/*.tmp\n", "x.tmp"),
        ("**/x.*\n", "a.md"),
        ("b/**/a.md\n", "a.md b/keep.md"),
        ("t?\n", "a.md"),
        ("t[2-3]\n", "t1"),
        ("\u{feff}a.md\n#hash\n  t1  \n\n", "#hash t2"),
        ("!t1\nt*\n", "a.md"),
        ("node_modules\n", "src/node_modules/m"),
        ("**/node_modules\n", "a.md"),
        ("\\#hash\n", "a.md"),
        ("/\n.\n..\n../x\n", "a.md b/a.md"),
    ] {
        let mut context = dockerfile("FROM busybox\nCOPY . /c\nRUN cd /c; find . -type f | sort\n").file(
            ".dockerignore",
            0o644,
            ignore,
        );
        for file in files {
            context = context.file(file, 0o644, "");
        }
        let told = engine.build(&[], context).await.ok();
        let seen: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("./")).collect();
        for file in left.split(' ') {
            assert!(seen.contains(&file), "{ignore:?} takes {file}: {seen:?}");
        }
        let patterns = |file: &str| match ignore {
            "*.md\n" => file == "a.md",
            "**/*.md\n!b/keep.md\n" => file.ends_with(".md") && file != "b/keep.md",
            "*\n!b\n" => !file.starts_with("b/"),
            "*\n!b\nb/c\n" => !file.starts_with("b/") || file.starts_with("b/c/"),
            "**\n!**/keep.md\n" => file != "b/keep.md",
            "b\n!b/keep.md\n" => file.starts_with("b/") && file != "b/keep.md",
            "/b/\n" | "./b/../b\n" => file.starts_with("b/"),
            "b/*\n!b/c\n" => file.starts_with("b/") && !file.starts_with("b/c/"),
            "*/*.tmp\n*/*/*.tmp\n" => file.ends_with(".tmp") && file.contains('/'),
            "**/x.*\n" => file.ends_with("x.tmp"),
            "b/**/a.md\n" => file.starts_with("b/") && file.ends_with("a.md"),
            "t?\n" | "!t1\nt*\n" => file.starts_with('t'),
            "t[2-3]\n" => file == "t2",
            "node_modules\n" => file.starts_with("node_modules/"),
            "**/node_modules\n" => file.contains("node_modules"),
            "\\#hash\n" => file == "#hash",
            "/\n.\n..\n../x\n" => false,
            _ => file == "a.md" || file == "t1",
        };
        for file in files {
            assert_eq!(
                !seen.contains(&file),
                patterns(file),
                "{ignore:?} and {file}: {seen:?}"
            );
        }
    }
    // A file for one Dockerfile comes before the one for all, and neither it nor the Dockerfile have to be there for COPY.
    let context = Tar::new()
        .file(
            "sub/My.Dockerfile",
            0o644,
            "FROM busybox\nCOPY . /c\nRUN find /c -type f | sort\n",
        )
        .file("sub/My.Dockerfile.dockerignore", 0o644, "b\nsub\n")
        .file(".dockerignore", 0o644, "a\n")
        .file("a", 0o644, "")
        .file("b", 0o644, "");
    let told = engine
        .build(&[("dockerfile", "sub/My.Dockerfile")], context)
        .await
        .ok();
    assert!(
        told.contains("\n/c/.dockerignore\n/c/a\n") && !told.contains("/c/b"),
        "{told}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn triggers_of_base_images() {
    let engine = started().await;
    let parent = "FROM busybox\nONBUILD ARG V=1\nONBUILD RUN echo one $V\nONBUILD COPY --chown=5 f /f\nONBUILD ENV E=$V\nONBUILD WORKDIR /w\nONBUILD USER 5\nONBUILD CMD [\"x\"]\n";
    engine.build(&[("t", "parent")], dockerfile(parent)).await.ok();
    let child = || dockerfile("FROM parent AS p\nFROM p\nRUN echo $E; id -u; pwd\n").file("f", 0o644, "");
    let told = engine
        .build(&[("t", "child"), ("buildargs", "{\"V\":\"2\"}")], child())
        .await
        .ok();
    for line in ["# Executing 7 build triggers\n", "one 2\n", "2\n5\n/w\n"] {
        assert!(told.contains(line), "{line:?}: {told}");
    }
    let seen = config(&engine, "child").await;
    assert_eq!(seen["OnBuild"], Value::Null, "triggers are for children alone");
    assert_eq!(seen["Cmd"], json!(["x"]));
    engine
        .build(&[("t", "grandchild")], dockerfile("FROM child\nRUN true\n"))
        .await
        .ok();
    engine.finish().await;
}
