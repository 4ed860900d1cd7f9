//! No C function that may wait for a cluster is called around `ceph/door.rs`.
//!
//! Found by looking at the text: each call stands in a closure or future that is handed to
//! an entrance of the door, or in a plain function of which every caller does so.
//!
//! What a reader gets wrong: this is no proof. It does not see calls through a function
//! pointer, a macro, or a plain function that is imported under its bare name elsewhere;
//! what it does see it takes apart as rustfmt has laid it out.

use std::ops::Range;

use super::sources;

/// What leads to `door::pass`, which the rest of these end in (`ceph/connection.rs`, `pool.rs`, `open.rs`).
const ENTRANCES: [&str; 8] = [
    "door::pass(",
    ".blocking(",
    ".blocking_long(",
    ".blocking_flatten(",
    ".blocking_map(",
    ".blocking_monitor(",
    ".blocking_notification(",
    ".on_image(",
];

/// They ask a monitor or an OSD: counted, timed, and a place for a fault to strike.
const WAITING: [&str; 29] = [
    "rados_connect",
    "rados_wait_for_latest_osdmap",
    "rados_mon_command",
    "rados_pool_list",
    "rados_pool_lookup",
    "rados_pool_reverse_lookup",
    "rados_list_lockers",
    "rados_notify2",
    "rados_watch3",
    "rados_unwatch2",
    "rados_blocklist_add",
    "rados_aio_write_op_operate",
    "rados_aio_read_op_operate",
    "rados_aio_ioctx_selfmanaged_snap_create",
    "rados_aio_ioctx_selfmanaged_snap_remove",
    "rbd_create4",
    "rbd_clone3",
    "rbd_trash_move",
    "rbd_trash_remove_with_progress",
    "rbd_open_by_id",
    "rbd_open_by_id_read_only",
    "rbd_close",
    "rbd_get_size",
    "rbd_snap_create",
    "rbd_snap_remove",
    "rbd_resize2",
    "rbd_flatten_with_progress",
    "rbd_mirror_image_get_info",
    "rbd_csi_list_watchers",
];

/// They work on this process's memory; with `*`, all that begin so.
const LOCAL: [&str; 29] = [
    // From a callback, and behind the end of a watch: sent, not waited for; the callbacks that run.
    "rados_notify_ack",
    "rados_watch_flush",
    // A client's making, settings and end. The end waits, on a thread of its own.
    "rados_create2",
    "rados_conf_read_file",
    "rados_conf_set",
    "rados_conf_get",
    "rados_shutdown",
    // What a connected client knows of itself.
    "rados_get_instance_id",
    "rados_cluster_fsid",
    // Handles, and the parts of an operation that is sent later.
    "rados_ioctx_create2",
    "rados_ioctx_destroy",
    "rados_ioctx_set_namespace",
    "rados_ioctx_snap_set_read",
    "rados_set_pool_full_try",
    // From the osdmap that the client has.
    "rados_ioctx_pool_requires_alignment2",
    "rados_create_write_op",
    "rados_release_write_op",
    "rados_write_op_*",
    "rados_create_read_op",
    "rados_release_read_op",
    "rados_read_op_*",
    "rbd_image_options_*",
    // What came back.
    "rados_aio_create_completion2",
    "rados_aio_get_return_value",
    "rados_aio_release",
    "rados_omap_get_*",
    "rados_getxattrs_*",
    "rbd_mirror_image_get_info_cleanup",
    "rados_buffer_free",
];

fn is_local(name: &str) -> bool {
    LOCAL.iter().any(|local| match local.strip_suffix('*') {
        // `…_operate` would be the synchronous one that sends it.
        Some(beginning) => name.starts_with(beginning) && !name.contains("operate"),
        None => *local == name,
    })
}

/// A source file, its comments and texts blanked out, every other byte in its place.
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn of_ceph() -> Vec<Self> {
        let ceph = sources().into_iter().filter(|(name, _)| name.starts_with("ceph/"));
        ceph.map(|(name, text)| Self { text: blanked(&text), name }).collect()
    }

    fn module(&self) -> &str {
        self.name.trim_start_matches("ceph/").trim_end_matches(".rs")
    }

    fn place(&self, at: usize) -> String {
        format!("src/{}:{}", self.name, self.text[..at].matches('\n').count() + 1)
    }

    /// Where a word stands as a whole.
    fn words(&self, word: &str) -> Vec<usize> {
        let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
        let whole = |at: &usize| {
            !self.text[..*at].ends_with(part_of_name)
                && !self.text[at + word.len()..].starts_with(part_of_name)
        };
        self.text.match_indices(word).map(|(at, _)| at).filter(whole).collect()
    }

    /// From a bracket to behind the one that closes it.
    fn bracketed(&self, open: usize) -> Range<usize> {
        let mut depth = 0usize;
        for (at, c) in self.text[open..].char_indices() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return open..open + at + 1;
            }
        }
        panic!("{}: a bracket that nothing closes", self.place(open));
    }

    /// The innermost function around a place: its name, whether it is a method, its body.
    fn function(&self, at: usize) -> (String, bool, Range<usize>) {
        let mut found = self.words("fn").into_iter().filter(|start| *start < at).filter_map(|start| {
            let name: String =
                self.text[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let arguments = self.bracketed(start + self.text[start..].find('(')?);
            let rest = &self.text[arguments.end..];
            let body = rest.find('{').filter(|brace| rest.find(';').is_none_or(|end| *brace < end))?;
            let body = self.bracketed(arguments.end + body);
            let method = self.text[arguments].contains("self");
            body.contains(&at).then_some((name, method, body))
        });
        found.next_back().unwrap_or_else(|| panic!("{}: not in a function", self.place(at)))
    }

    /// Whether what stands there runs behind the door: inside a closure that is an
    /// entrance's last argument, or inside one, or a future, whose name is.
    fn is_behind_the_door(&self, at: usize) -> bool {
        let (_, _, body) = self.function(at);
        let entrances = ENTRANCES.iter().flat_map(|entrance| {
            let found = self.text[body.clone()].match_indices(entrance);
            found.map(|(found, _)| body.start + found + entrance.len() - 1).collect::<Vec<_>>()
        });
        entrances.map(|open| self.bracketed(open)).any(|arguments| {
            if arguments.contains(&at) {
                // Behind the bars of the closure's own arguments.
                return self.text[arguments.start..at].matches('|').count() >= 2;
            }
            let last = self.text[arguments].trim_end_matches([')', ',', '\n', ' ']);
            let last = last.rsplit([' ', '(']).next().unwrap_or_default();
            self.bound(last, &body).is_some_and(|bound| bound.contains(&at))
        })
    }

    /// What `let NAME = …;` gives a name, if it does nothing before it is called or awaited.
    fn bound(&self, name: &str, body: &Range<usize>) -> Option<Range<usize>> {
        let head = format!("let {name} = ");
        let start = body.start + self.text[body.clone()].find(&head)? + head.len();
        let mut end = start;
        while !self.text[end..].starts_with(';') {
            let opens = self.text[end..].starts_with(['(', '[', '{']);
            end = if opens {
                self.bracketed(end).end
            } else {
                end + self.text[end..].chars().next()?.len_utf8()
            };
        }
        let lazy = ["move |", "|", "async move {", "aio::"];
        lazy.iter().any(|beginning| self.text[start..].starts_with(beginning)).then_some(start..end)
    }
}

/// Blanks comments, texts and characters, so that no bracket or name in them counts.
fn blanked(source: &str) -> String {
    let mut bytes = source.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source.as_bytes()[at..];
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'"', ..] => {
                let mut end = 1;
                while rest.get(end).is_some_and(|byte| *byte != b'"') {
                    end += if rest[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            [b'\'', b'\\', _, b'\'', ..] => 4,
            [b'\'', _, b'\'', ..] => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        let end = (at + length).min(bytes.len());
        bytes[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8(bytes).unwrap()
}

/// Why a place is not behind the door, if it is not.
fn astray(files: &[Source], file: &Source, at: usize) -> Option<String> {
    if file.is_behind_the_door(at) {
        return None;
    }
    let (name, method, _) = file.function(at);
    if method {
        return Some(format!("{}: not in a closure that is handed to the door", file.place(at)));
    }
    let mut called = false;
    for other in files {
        let own = std::ptr::eq(file, other);
        let wanted = if own { name.clone() } else { format!("{}::{name}", file.module()) };
        for caller in other.words(&wanted) {
            let before = &other.text[..caller];
            let is_call = other.text[caller + wanted.len()..].starts_with(['(', ':']);
            if !is_call || before.ends_with("fn ") || before.ends_with('.') || (own && before.ends_with("::"))
            {
                continue;
            }
            called = true;
            if let Some(why) = astray(files, other, caller) {
                return Some(why);
            }
        }
    }
    (!called).then(|| format!("{}: {name} is not seen to be called behind the door", file.place(at)))
}

#[test]
fn every_function_of_c_is_known_to_wait_or_not() {
    let files = Source::of_ceph();
    let ffi = files.iter().find(|file| file.module() == "ffi").unwrap();
    let declared: Vec<_> =
        ffi.words("fn").into_iter().filter(|at| ffi.text[..*at].ends_with("pub ")).collect();
    assert!(declared.len() > 40, "the declarations were found");
    for at in declared {
        let name = ffi.text[at + 3..].split('(').next().unwrap();
        assert!(
            WAITING.contains(&name) || is_local(name),
            "{name}: does it wait for the cluster? say so in tests/rules/door.rs"
        );
    }
    for name in WAITING {
        assert_eq!(ffi.words(name).len(), 1, "{name} is declared");
    }
}

#[test]
fn calls_that_wait_for_the_cluster_go_through_the_door() {
    let files = Source::of_ceph();
    let mut found = Vec::new();
    for name in WAITING {
        let mut calls = 0;
        for file in files.iter().filter(|file| file.module() != "ffi") {
            for at in file.words(name) {
                calls += 1;
                let plain =
                    file.text[..at].ends_with("ffi::") && file.text[at + name.len()..].starts_with('(');
                if !plain {
                    found.push(format!("{}: {name} is not called as ffi::{name}(…)", file.place(at)));
                } else if let Some(why) = astray(&files, file, at) {
                    found.push(format!("{why}: {name}"));
                }
            }
        }
        assert!(calls > 0, "{name} is called");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The rule itself sees what it is there for.
#[test]
fn a_call_around_the_door_is_seen() {
    let judge = |text: &str| {
        let text = blanked(text);
        let files = [Source { name: "ceph/sample.rs".to_owned(), text }];
        let at = files[0].words("rbd_create4")[0];
        astray(&files, &files[0], at).is_none()
    };
    let direct = "fn a(&self) { self.blocking(\"x|y|z\", name, move |io| { ffi::rbd_create4(io) }) }";
    let named = "fn a(&self) { let call = move |io| ffi::rbd_create4(io); self.blocking(OP, name, call) }";
    let plain = "fn a(&self) { self.blocking(OP, move |io| b(io)) }\nfn b(io: u8) { ffi::rbd_create4(io) }";
    for good in [direct, named, plain] {
        assert!(judge(good), "{good}");
    }
    for bad in [
        "fn a(&self) { ffi::rbd_create4(io); self.blocking(OP, name, move |io| { 0 }) }",
        "fn a(&self) { let code = ffi::rbd_create4(io); self.blocking(OP, name, code) }",
        "fn a(&self) { self.blocking(OP, name, ffi::rbd_create4(io)) }",
        "fn a(&self) { let call = move |io| ffi::rbd_create4(io); call(1) }",
        "fn a(&self) { self.blocking(OP, move |io| b(io)); b(io) }\nfn b(io: u8) { ffi::rbd_create4(io) }",
        "fn b(io: u8) { ffi::rbd_create4(io) }",
    ] {
        assert!(!judge(bad), "{bad}");
    }
}
