//! Archives made to do harm, each through every door that takes archives: images that are loaded, root file systems that
//! are imported, copies into a container, contexts of builds. Whatever they say, nothing outside changes, nothing is left
//! behind, and the refusal says that the archive is wrong, not the engine.

use berth_tests::{
    Engine, Reply,
    client::query,
    container::{STAY, shell},
    image::{Image, Node, Tar},
    random::figure,
};

use super::hostile::{Canary, escapes};

/// The 512 bytes before an entry, with fields as they are given.
fn header(name: &[u8], kind: u8, size: &[u8], link: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8], room: usize| {
        let length = text.len().min(room);
        bytes[at..at + length].copy_from_slice(&text[..length]);
    };
    put(0, name, 100);
    put(100, b"0000644\0", 8);
    put(108, b"0000000\0", 8);
    put(116, b"0000000\0", 8);
    put(124, size, 12);
    put(136, b"00000000000\0", 12);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    bytes[148..156].copy_from_slice(text.as_bytes());
    bytes
}

/// One block of content.
fn block(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    bytes.resize(512, 0);
    bytes
}

fn raw(pieces: &[Vec<u8>]) -> Tar {
    pieces
        .iter()
        .fold(Tar::new(), |tar, piece| tar.garbage(piece))
        .file("after", 0o644, "after")
}

const NOTHING: &[u8] = b"00000000000\0";
const ONE_BLOCK: &[u8] = b"00000001000\0";

/// Links that are used before, after and instead of what they lead to.
fn links(canary: &str) -> Vec<(&'static str, Tar)> {
    let inside = |name: &str| format!("{canary}/{name}");
    let file = |tar: Tar, path: &str| tar.file(path, 0o777, "broken");
    vec![
        (
            "hard link to a link",
            file(
                Tar::new()
                    .symlink("link", &inside("file"))
                    .add("h", 0o644, Node::Hardlink("link")),
                "h",
            ),
        ),
        (
            "hard link to nothing",
            Tar::new().add("h", 0o644, Node::Hardlink("missing")),
        ),
        (
            "hard link to a directory",
            Tar::new()
                .directory("d/", 0o755)
                .add("h", 0o644, Node::Hardlink("d")),
        ),
        (
            "hard link to itself",
            Tar::new().add("h", 0o644, Node::Hardlink("h")),
        ),
        (
            "hard link to the root",
            Tar::new().add("h", 0o644, Node::Hardlink(".")),
        ),
        (
            "a directory that becomes a link",
            file(Tar::new().directory("d/", 0o755).symlink("d", canary), "d/file"),
        ),
        (
            "a link that becomes a directory and a link again",
            file(
                Tar::new()
                    .symlink("d", canary)
                    .directory("d/", 0o755)
                    .symlink("d", canary),
                "d/new",
            ),
        ),
        (
            "two dots behind a link",
            file(Tar::new().symlink("link", &inside("sub")), "link/../file"),
        ),
        (
            "a link to two dots",
            file(
                Tar::new().symlink("up", "../../../../../.."),
                &format!("up{canary}/file"),
            ),
        ),
        (
            "a link to itself",
            file(Tar::new().symlink("self", "self"), "self/file"),
        ),
        (
            "a link with content",
            raw(&[header(b"l", b'2', ONE_BLOCK, canary.as_bytes()), block(b"x")]),
        ),
        (
            "a hard link with content",
            raw(&[
                header(b"h", b'1', ONE_BLOCK, inside("file").as_bytes()),
                block(b"broken"),
            ]),
        ),
        (
            "a directory with content",
            raw(&[header(b"d/", b'5', ONE_BLOCK, b""), block(b"x")]),
        ),
        ("a link to nothing", raw(&[header(b"l", b'2', NOTHING, b"")])),
        (
            "a device through a link",
            Tar::new()
                .symlink("link", canary)
                .add("link/sda", 0o666, Node::Block(8, 0)),
        ),
        (
            "a pipe through a link",
            Tar::new()
                .symlink("link", canary)
                .add("link/p", 0o666, Node::Fifo),
        ),
    ]
}

/// Names and numbers that no writer would write.
fn fields(canary: &str) -> Vec<(&'static str, Tar)> {
    let long = "n".repeat(256);
    let deep = "d/".repeat(3000);
    vec![
        ("no name", raw(&[header(b"", b'0', NOTHING, b"")])),
        ("the name /", raw(&[header(b"/", b'5', NOTHING, b"")])),
        ("the name ..", raw(&[header(b"..", b'5', NOTHING, b"")])),
        (
            "a file whose name ends in a slash",
            raw(&[header(b"f/", b'0', ONE_BLOCK, b""), block(b"x")]),
        ),
        (
            "a name that is no text",
            raw(&[header(b"\xff\xfe\n\x1b", b'0', NOTHING, b"")]),
        ),
        ("a name of 256 bytes", Tar::new().file(&long, 0o644, "x")),
        (
            "a name 3,000 directories deep",
            Tar::new().file(&format!("{deep}f"), 0o644, "x"),
        ),
        (
            "a whiteout of a long name",
            Tar::new().file(&format!(".wh.{long}"), 0o644, ""),
        ),
        ("everything opaque", Tar::new().file(".wh..wh..opq", 0o644, "")),
        (
            "an unknown kind",
            raw(&[header(b"z", b'Z', ONE_BLOCK, b""), block(b"x")]),
        ),
        ("a volume header", raw(&[header(b"label", b'V', NOTHING, b"")])),
        (
            "a contiguous file",
            raw(&[header(b"c", b'7', ONE_BLOCK, b""), block(b"x")]),
        ),
        ("a size below zero", raw(&[header(b"f", b'0', &[0xff; 12], b"")])),
        (
            "a size of 8 EiB",
            raw(&[header(
                b"f",
                b'0',
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                b"",
            )]),
        ),
        ("a size of no digits", raw(&[header(b"f", b'0', b"99zz", b"")])),
        (
            "a size of blanks",
            raw(&[header(b"f", b'0', b"            ", b"")]),
        ),
        ("a wrong sum", {
            let mut bytes = header(b"f", b'0', NOTHING, b"");
            bytes[0] = b'g';
            raw(&[bytes])
        }),
        (
            "a long name without an entry",
            Tar::new().garbage(&[header(b"x", b'L', ONE_BLOCK, b""), block(b"name")].concat()),
        ),
        (
            "a long name twice",
            raw(&[
                header(b"x", b'L', ONE_BLOCK, b""),
                block(b"a"),
                header(b"x", b'L', ONE_BLOCK, b""),
                block(canary.as_bytes()),
                header(b"f", b'0', NOTHING, b""),
            ]),
        ),
        (
            "a long name with a NUL inside",
            raw(&[
                header(b"x", b'L', ONE_BLOCK, b""),
                block(b"a\0/../../b"),
                header(b"f", b'0', NOTHING, b""),
            ]),
        ),
        (
            "a long name of 1 GiB",
            raw(&[header(b"x", b'L', b"10000000000\0", b"")]),
        ),
        (
            "attributes of 1 GiB",
            raw(&[header(b"x", b'x', b"10000000000\0", b"")]),
        ),
        (
            "attributes that end early",
            raw(&[header(b"x", b'x', ONE_BLOCK, b""), block(b"99 path=x\n")]),
        ),
        (
            "attributes without a length",
            raw(&[header(b"x", b'x', ONE_BLOCK, b""), block(b"path=x\n")]),
        ),
        (
            "attributes for all that follow",
            raw(&[
                header(b"x", b'g', ONE_BLOCK, b""),
                block(format!("{} path={canary}/f\n", canary.len() + 11).as_bytes()),
            ]),
        ),
        (
            "another size in the attributes",
            Tar::new().pax(&[("size", "0")]).file("f", 0o644, vec![b'x'; 600]),
        ),
        (
            "a greater size in the attributes",
            Tar::new().pax(&[("size", "1048576")]).file("f", 0o644, "x"),
        ),
        (
            "a size below zero in the attributes",
            Tar::new().pax(&[("size", "-1")]).file("f", 0o644, "x"),
        ),
        (
            "owners beyond all numbers",
            Tar::new()
                .pax(&[("uid", "18446744073709551616"), ("gid", "-1")])
                .file("f", 0o644, "x"),
        ),
        (
            "an owner of 64 bits",
            Tar::new().owned("f", 0o644, u64::from(u32::MAX) + 1, 0, Node::File(b"x")),
        ),
        (
            "a time beyond all times",
            Tar::new()
                .pax(&[("mtime", "99999999999999999999.5")])
                .file("f", 0o644, "x"),
        ),
        (
            "a time before all times",
            Tar::new()
                .pax(&[("mtime", "-99999999999999")])
                .file("f", 0o644, "x"),
        ),
        (
            "all bits of the mode",
            Tar::new().file("f", 0o7777, "x").directory("d/", 0o7777),
        ),
        (
            "a sparse file of 8 EiB",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", "9223372036854775807"),
                    ("GNU.sparse.name", "s"),
                ])
                .file("s", 0o644, "1\n0\n9223372036854775807\n"),
        ),
        (
            "an old sparse file",
            raw(&[header(b"s", b'S', ONE_BLOCK, b""), block(b"x")]),
        ),
        (
            "attributes of an overlay",
            Tar::new()
                .pax(&[
                    ("SCHILY.xattr.trusted.overlay.metacopy", ""),
                    ("SCHILY.xattr.user.overlay.redirect", "/.."),
                ])
                .file("f", 0o644, "x"),
        ),
        (
            "an attribute that no system has",
            Tar::new()
                .pax(&[("SCHILY.xattr.x", "y"), ("SCHILY.xattr.", "z")])
                .file("f", 0o644, "x"),
        ),
        (
            "capabilities that are no capabilities",
            Tar::new()
                .pax(&[("SCHILY.xattr.security.capability", "nonsense")])
                .file("f", 0o755, "x"),
        ),
        (
            "the same a thousand times",
            (0..1000).fold(Tar::new(), |tar, number| match number % 3 {
                0 => tar.symlink("x", canary),
                1 => tar.file("x", 0o644, "x"),
                _ => tar.add("x", 0o755, Node::Directory),
            }),
        ),
    ]
}

/// All of them: what they try, and the archive.
fn corpus(canary: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = escapes(canary);
    all.extend(links(canary));
    all.extend(fields(canary));
    all.into_iter().map(|(what, tar)| (what, tar.finish())).collect()
}

/// The answer names a fault of the archive, if it names one; whether it was taken.
fn judged(what: &str, door: &str, reply: &Reply) -> bool {
    let text = reply.text();
    assert!(
        [200, 400, 403, 413].contains(&reply.status().as_u16()),
        "{what} by {door}: {} {text}",
        reply.status()
    );
    reply.status() == 200 && !text.contains("errorDetail")
}

#[tokio::test]
async fn every_archive_through_every_door() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let canary = Canary::new();
    let cases = corpus(canary.path());
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let container = engine.api.launch(&shell(STAY)).await;
    let stopped = engine.api.create(&shell(STAY)).await;
    let mut taken = 0_u64;
    for (what, archive) in &cases {
        let image = Image {
            layers: vec![archive.clone()],
            ..Image::new("door:v1", [])
        };
        let reply = engine.api.post_tar("/images/load", image.docker_archive()).await;
        taken += u64::from(judged(what, "load", &reply));
        canary.check(what);

        let path = format!(
            "/images/create{}",
            query(&[("fromSrc", "-"), ("repo", "door"), ("tag", "v2")])
        );
        let reply = engine.api.post_tar(&path, archive.clone()).await;
        taken += u64::from(judged(what, "import", &reply));
        canary.check(what);

        for id in [&container, &stopped] {
            let path = format!("/containers/{id}/archive{}", query(&[("path", "/tmp")]));
            let call = engine.api.call(http::Method::PUT, &path);
            let reply = call
                .header("content-type", "application/x-tar")
                .bytes(archive.clone())
                .send()
                .await;
            taken += u64::from(judged(what, "copy", &reply));
            canary.check(what);
        }

        // As a context, and as an archive that a step unpacks.
        let reply = engine.api.post_tar("/build?t=door:v3", archive.clone()).await;
        taken += u64::from(judged(what, "context", &reply));
        canary.check(what);
        let context = Tar::new()
            .file("Dockerfile", 0o644, "FROM busybox\nADD a.tar /tmp/\n")
            .file("a.tar", 0o644, archive);
        let reply = engine.api.post_tar("/build?t=door:v3", context.finish()).await;
        taken += u64::from(judged(what, "ADD", &reply));
        canary.check(what);

        for name in ["door:v1", "door:v2", "door:v3"] {
            engine.api.delete(&format!("/images/{name}?force=1")).await;
        }
        engine.api.post("/build/prune?all=1").await.expect(200);
        engine.api.post("/images/prune").await.expect(200);
    }
    assert!(taken > 0, "not one was taken: the doors are closed");
    assert_eq!(engine.api.inspect(&container).await["State"]["Running"], true);
    figure(
        "hostile archives through six doors",
        "0 outside changed, 0 failures",
        "0",
        u64::try_from(cases.len() * 6).unwrap_or(0),
    );
    engine.finish().await;
}
