//! The reader against well-formed and malformed archives.

use proptest::prelude::*;

use super::*;
use crate::image::testing::{Item, Tar, pax_record};

fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits, 1000);
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        loop {
            let chunk = reader.data()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let n = chunk.len();
            reader.consume(n);
        }
        all.push((entry, data));
    }
    reader.finish()?;
    Ok(all)
}

fn refused(archive: &[u8]) -> String {
    let error = read(archive).unwrap_err();
    assert!(
        matches!(error.kind(), crate::Kind::Invalid | crate::Kind::TooLarge),
        "{error}"
    );
    error.to_string()
}

#[test]
fn reads_every_kind() {
    let archive = Tar::new([
        Item::dir("d/").mode(0o1777),
        Item::file("d/f", "data").mode(0o4755).owner(1000, 2000).mtime(-5),
        Item::symlink("d/s", "../x"),
        Item::hard_link("d/h", "d/f"),
        Item::device(b'3', "c", 1, 3),
        Item::device(b'4', "b", 8, 0),
        Item::new(b'6', "p"),
        Item::file("after", "x"),
    ])
    .finish();
    let all = read(&archive).unwrap();
    let kinds: Vec<_> = all.iter().map(|(e, _)| e.kind).collect();
    use Kind::*;
    assert_eq!(
        kinds,
        [
            Directory,
            File,
            Symlink,
            HardLink,
            CharDevice,
            BlockDevice,
            Fifo,
            File
        ]
    );
    let (file, data) = &all[1];
    assert_eq!(
        (file.mode, file.uid, file.gid, file.mtime.secs),
        (0o4755, 1000, 2000, -5)
    );
    assert_eq!((data.as_slice(), file.size), (&b"data"[..], 4));
    assert_eq!(all[4].0.device, (1, 3));
    assert_eq!(all[7].1, b"x");
}

#[test]
fn extensions_change_the_next_entry_only() {
    let name = "n/".repeat(200) + "f";
    let archive = Tar::new([
        Item::file(&name, "1"),
        Item::file("short", "2")
            .pax("path", "long/pax")
            .pax("uid", "3000000")
            .pax("mtime", "1.25")
            .pax("comment", "x")
            .xattr("user.a", "b\nc"),
        Item::symlink("s", "t/".repeat(100)),
        Item::file("plain", "3"),
    ])
    .finish();
    let all = read(&archive).unwrap();
    assert_eq!(all[0].0.path.as_bytes(), name.as_bytes());
    let pax = &all[1].0;
    assert_eq!((pax.path.as_bytes(), pax.uid), (&b"long/pax"[..], 3_000_000));
    assert_eq!(
        pax.mtime,
        Time {
            secs: 1,
            nanos: 250_000_000
        }
    );
    assert_eq!(pax.xattrs[0].value, b"b\nc");
    assert_eq!(all[2].0.link.len(), 200);
    assert_eq!(
        (all[3].0.path.as_bytes(), all[3].0.xattrs.len()),
        (&b"plain"[..], 0)
    );
}

#[test]
fn the_pax_size_counts_for_what_follows() {
    // To a reader that takes the header's size, the data holds another entry.
    let hidden = Tar::new([Item::file("hidden", "")]).cut();
    let archive = Tar::new([Item::file("outer", &hidden)
        .size(0)
        .pax("size", hidden.len().to_string())])
    .with(Item::file("next", "x"))
    .finish();
    let all = read(&archive).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].1.as_slice(), all[1].0.path.as_bytes()),
        (&hidden[..], &b"next"[..])
    );
}

#[test]
fn ends() {
    let one = Tar::new([Item::file("a", "x")]);
    for archive in [
        one.clone().finish(),
        one.clone().cut(),
        [one.clone().cut(), vec![0; 512]].concat(),
        [one.clone().finish(), b"whatever follows".to_vec()].concat(),
        one.clone().cut()[..513].to_vec(),
    ] {
        assert_eq!(read(&archive).unwrap().len(), 1);
    }
    assert!(read(b"").unwrap().is_empty());
    refused(&one.clone().cut()[..512]);
    refused(&one.clone().cut()[..300]);
    refused(&[one.clone().cut(), vec![0; 512], one.cut()].concat());
    refused(&[1; 512]);
}

#[test]
fn malformed_headers_are_refused() {
    let file = || Item::file("a", "x");
    let mut global = Item::new(b'g', "g");
    global.data = pax_record("path", b"b");
    let mut pax = Item::new(b'x', "x");
    pax.data = pax_record("comment", b"b");
    let mut long = Item::new(b'L', "L");
    long.data = b"other\0".to_vec();
    let many = [
        Tar::new([file().size(u64::MAX >> 1)]),
        Tar::new([file().size(u64::MAX)]),
        Tar::new([Item::new(b'5', "d").size(512)]),
        Tar::new([Item::new(b'2', "s").link("t").size(512)]),
        Tar::new([Item::new(b'Q', "q")]),
        Tar::new([Item::new(b'X', "q")]),
        Tar::new([Item::file("name/", "x")]),
        Tar::new([Item::file("", "x")]),
        Tar::new([file().owner(u64::from(u32::MAX), 0)]),
        Tar::new([file().owner(0, 1 << 32)]),
        Tar::new([file().pax("uid", "4294967295")]),
        Tar::new([file().pax("path", "../a")]),
        Tar::new([pax.clone(), pax.clone(), file()]),
        Tar::new([long.clone(), long.clone(), file()]),
        Tar::new([long.clone(), file().pax("path", "different")]),
        Tar::new([global, file()]),
        Tar::new([pax.clone()]),
        Tar::new([long]),
        Tar::new([Item::new(b'x', "x").size(1 << 30)]),
        Tar::new([Item::new(b'L', "x").size(1 << 30)]),
        Tar::new([file().pax("GNU.sparse.major", "1").pax("GNU.sparse.size", "9")]),
        Tar::new([file()
            .pax("GNU.sparse.major", "2")
            .pax("GNU.sparse.size", "9")
            .pax("GNU.sparse.map", "0,1")]),
        Tar::new([file().pax("GNU.sparse.map", "0,1")]),
        Tar::new([file().pax("GNU.sparse.map", "0,2").pax("GNU.sparse.size", "9")]),
        Tar::new([file()
            .pax("GNU.sparse.map", "0,1")
            .pax("GNU.sparse.size", (8_u64 << 60).wrapping_sub(1).to_string())]),
    ];
    for (at, archive) in many.into_iter().enumerate() {
        let bytes = archive.finish();
        let error = read(&bytes).err();
        assert!(error.is_some(), "archive {at} was accepted");
        refused(&bytes);
    }
    let mut bad_sum = Tar::new([file()]).finish();
    bad_sum[0] ^= 1;
    refused(&bad_sum);
}

#[test]
fn sparse_files_of_all_versions() {
    let map = [
        Segment { offset: 0, length: 3 },
        Segment {
            offset: 1000,
            length: 2,
        },
    ];
    let mut inline = b"2\n0\n3\n1000\n2\n".to_vec();
    inline.resize(512, 0);
    inline.extend_from_slice(b"abcde");
    let mut old = Item::file("old", "abcde");
    old.flag = b'S';
    let archive = Tar::new([
        Item::file("x", "abcde")
            .pax("GNU.sparse.size", "2000")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.offset", "0")
            .pax("GNU.sparse.numbytes", "3")
            .pax("GNU.sparse.offset", "1000")
            .pax("GNU.sparse.numbytes", "2"),
        Item::file("x", "abcde")
            .pax("GNU.sparse.size", "2000")
            .pax("GNU.sparse.map", "0,3,1000,2")
            .pax("GNU.sparse.name", "n"),
        Item::file("x", inline)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "2000")
            .pax("GNU.sparse.name", "n"),
        Item::file("end", ""),
    ])
    .finish();
    let all = read(&archive).unwrap();
    assert_eq!(all.len(), 4);
    for (entry, data) in &all[..3] {
        assert_eq!(
            (entry.size, entry.segments.as_deref(), data.as_slice()),
            (2000, Some(&map[..]), &b"abcde"[..])
        );
    }
    assert_eq!(all[1].0.path.as_bytes(), b"n");
}

#[test]
fn old_gnu_sparse_headers() {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "sparse");
    put(100, "0000644\0");
    put(124, "00000000005");
    put(136, "00000000000");
    put(156, "S");
    put(257, "ustar  \0");
    put(386, "00000000000");
    put(398, "00000000001");
    put(482, "\x01");
    put(483, "00000003720");
    let mut extended = [0_u8; 512];
    extended[..24].copy_from_slice(b"00000001000\x0000000000004\0");
    let mut tar = Tar::default();
    tar.raw_header(block);
    tar.raw(&extended);
    tar.raw(b"abcde");
    tar.pad();
    let all = read(&tar.with(Item::file("end", "")).finish()).unwrap();
    let (entry, data) = &all[0];
    assert_eq!((entry.size, data.as_slice()), (2000, &b"abcde"[..]));
    let map = [
        Segment { offset: 0, length: 1 },
        Segment {
            offset: 512,
            length: 4,
        },
    ];
    assert_eq!(entry.segments.as_deref(), Some(&map[..]));
    assert_eq!(all[1].0.path.as_bytes(), b"end");
}

#[test]
fn too_many_entries_are_refused() {
    let limits = Limits::default();
    let archive = Tar::new((0..5).map(|n| Item::file(n.to_string(), ""))).finish();
    let mut reader = TarReader::new(&archive[..], &limits, 4);
    let error = loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("five entries were accepted"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), crate::Kind::TooLarge);
}

proptest! {
    /// Damaged archives give entries or errors, never a panic, and never more data than there is.
    #[test]
    fn damage_is_survived(at in 0_usize..4096, byte: u8, cut in 0_usize..6000) {
        let mut archive = Tar::new([
            Item::file("a", "x").pax("path", "b").xattr("user.x", "y"),
            Item::file("s", "abcde").pax("GNU.sparse.size", "2000").pax("GNU.sparse.map", "0,3,1000,2"),
            Item::symlink("l", "t".repeat(120)),
        ]).finish();
        archive[at] = byte;
        let end = cut.min(archive.len());
        if let Ok(all) = read(&archive[..end]) {
            prop_assert!(all.iter().map(|(_, data)| data.len()).sum::<usize>() <= end);
        }
    }

    /// Random bytes with a valid checksum.
    #[test]
    fn noise_is_survived(noise in proptest::collection::vec(any::<u8>(), 512)) {
        let mut tar = Tar::default();
        tar.raw_header(noise.try_into().unwrap());
        let _ = read(&tar.finish());
    }
}
