//! What users give to ps: options of three families, one behind the other or run together.

use super::{
    columns::{self, Column, Row},
    process::{Host, Process},
};

/// What is to be shown.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub columns: Vec<Column>,
    /// Keys of the order, the most important first, and whether each goes down.
    pub sort: Vec<(Column, bool)>,
    /// One row for each thread.
    pub threads: bool,
    pids: Vec<i32>,
    parents: Vec<i32>,
    names: Vec<String>,
    users: Vec<String>,
}

/// What the options say of the columns, until all are read.
#[derive(Debug, Default)]
struct Format {
    /// Columns asked for by name.
    named: Vec<Column>,
    /// Those of `-O`, between the process id and the rest.
    between: Vec<Column>,
    /// Whether any option was of the BSD family, which has other defaults.
    bsd: bool,
    unix: bool,
    kind: Kind,
    full: bool,
    /// `-y`: with `-l`, memory in place of the address.
    resident: bool,
    label: bool,
    lwp: bool,
    spid: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Plain,
    Extra,
    Long,
    Jobs,
    BsdUser,
    BsdLong,
    BsdJobs,
    BsdMemory,
}

/// Letters without an effect here: which processes are meant is decided already, and lines are as long as they are.
const UNIX_IDLE: &str = "AadeNHwcn";
const BSD_IDLE: &str = "agxrTfewnScL";

impl Options {
    /// Reads the arguments; empty ones are `-ef`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(arguments: &str) -> Result<Self, String> {
        let arguments = match arguments.trim() {
            "" => "-ef",
            // What everybody writes, though it would ask for the processes of a user `x`.
            "-aux" => "aux",
            arguments => arguments,
        };
        let mut options = Self::default();
        let mut format = Format::default();
        let mut words = arguments.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let mut next = || words.next().map(str::to_owned);
            match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(name), _) => options.long(&mut format, name, &mut next)?,
                (None, Some(letters)) => options.letters(&mut format, letters, true, &mut next)?,
                (None, None) => options.letters(&mut format, word, false, &mut next)?,
            }
        }
        options.columns = format.columns();
        Ok(options)
    }

    fn long(
        &mut self,
        format: &mut Format,
        option: &str,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let mut value = || value.clone().or_else(&mut *next).ok_or_else(|| missing(name));
        match name {
            "format" => format.named.extend(list(&value()?)?),
            "sort" => self.order(&value()?)?,
            "pid" | "quick-pid" => self.pids.extend(numbers(&value()?)?),
            "ppid" => self.parents.extend(numbers(&value()?)?),
            "user" | "User" => self.users.extend(texts(&value()?)),
            "cols" | "columns" | "width" | "rows" | "lines" => drop(value()?),
            "forest" | "headers" | "cumulative" => {}
            "no-headers" | "no-heading" | "noheader" | "noheaders" => {
                return Err("the header is needed".to_owned());
            }
            _ => return Err(unknown(&format!("--{name}"))),
        }
        Ok(())
    }

    /// Letters run together; one that takes a value takes the rest or the next word.
    fn letters(
        &mut self,
        format: &mut Format,
        letters: &str,
        unix: bool,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<(), String> {
        if letters.is_empty() {
            return Err(unknown("-"));
        }
        if !unix && letters.starts_with(|first: char| first.is_ascii_digit()) {
            self.pids.extend(numbers(letters)?);
            return Ok(());
        }
        format.unix |= unix;
        format.bsd |= !unix;
        for (place, letter) in letters.char_indices() {
            let takes_value = match unix {
                true => "oOpqCuUk".contains(letter),
                false => "oOpqUk".contains(letter),
            };
            if takes_value {
                let rest = letters.get(place + letter.len_utf8()..).unwrap_or_default();
                let value = match rest {
                    "" => next().ok_or_else(|| missing(&letter.to_string()))?,
                    rest => rest.to_owned(),
                };
                return self.valued(format, letter, &value);
            }
            match unix {
                true => self.unix(format, letter)?,
                false => self.bsd(format, letter)?,
            }
        }
        Ok(())
    }

    fn valued(&mut self, format: &mut Format, letter: char, value: &str) -> Result<(), String> {
        match letter {
            'o' => format.named.extend(list(value)?),
            'O' => format.between.extend(list(value)?),
            'k' => self.order(value)?,
            'p' | 'q' => self.pids.extend(numbers(value)?),
            'C' => self.names.extend(texts(value)),
            _ => self.users.extend(texts(value)),
        }
        Ok(())
    }

    fn unix(&mut self, format: &mut Format, letter: char) -> Result<(), String> {
        match letter {
            'f' => format.full = true,
            'F' => format.kind = Kind::Extra,
            'l' => format.kind = Kind::Long,
            'j' => format.kind = Kind::Jobs,
            'y' => format.resident = true,
            'M' | 'Z' => format.label = true,
            'L' => (format.lwp, self.threads) = (true, true),
            'T' => (format.spid, self.threads) = (true, true),
            letter if UNIX_IDLE.contains(letter) => {}
            letter => return Err(unknown(&format!("-{letter}"))),
        }
        Ok(())
    }

    fn bsd(&mut self, format: &mut Format, letter: char) -> Result<(), String> {
        match letter {
            'u' => format.kind = Kind::BsdUser,
            'l' => format.kind = Kind::BsdLong,
            'j' => format.kind = Kind::BsdJobs,
            'v' => format.kind = Kind::BsdMemory,
            'Z' => format.label = true,
            'H' => self.threads = true,
            letter if BSD_IDLE.contains(letter) => {}
            letter => return Err(unknown(&letter.to_string())),
        }
        Ok(())
    }

    fn order(&mut self, text: &str) -> Result<(), String> {
        for key in texts(text) {
            let (name, descending) = match key.strip_prefix('-') {
                Some(name) => (name, true),
                None => (key.strip_prefix('+').unwrap_or(&key), false),
            };
            let column = columns::find(name).ok_or_else(|| format!("unknown sort specifier {name}"))?;
            self.sort.push((column, descending));
        }
        Ok(())
    }

    /// Whether a process is among those that are asked for; without a choice all are.
    pub fn selects(&self, process: &Process, host: &Host) -> bool {
        let row = Row { process, host };
        let all =
            self.pids.is_empty() && self.parents.is_empty() && self.names.is_empty() && self.users.is_empty();
        let user = |wanted: &String| *wanted == row.user(process.euid) || *wanted == process.euid.to_string();
        all || self.pids.contains(&process.pid)
            || self.parents.contains(&process.ppid)
            || self.names.contains(&process.comm)
            || self.users.iter().any(user)
    }
}

impl Format {
    fn columns(self) -> Vec<Column> {
        if !self.named.is_empty() {
            return self.named;
        }
        let mut names: Vec<&str> = match (self.kind, self.full, self.bsd && !self.unix) {
            (Kind::Extra, ..) => "uid-name pid ppid c sz rss psr stime tname time cmd",
            (Kind::Long, true, _) => "f s uid-name pid ppid c opri ni addr sz wchan stime tname time cmd",
            (Kind::Long, false, _) => "f s uid pid ppid c opri ni addr sz wchan tname time ucmd",
            (Kind::Jobs, true, _) => "uid-name pid ppid pgid sid c stime tname time cmd",
            (Kind::Jobs, false, _) => "pid pgid sid tname time ucmd",
            (Kind::BsdUser, ..) => "user pid pcpu pmem vsz rss tname stat start_time bsdtime command",
            (Kind::BsdLong, ..) => "f uid pid ppid priority ni vsz rss wchan stat tname bsdtime command",
            (Kind::BsdJobs, ..) => "ppid pid pgid sid tname tpgid stat uid bsdtime command",
            (Kind::BsdMemory, ..) => "pid tname stat bsdtime majfl trs drs rss pmem command",
            (Kind::Plain, true, _) => "uid-name pid ppid c stime tname time cmd",
            (Kind::Plain, false, true) => "pid tname stat bsdtime command",
            (Kind::Plain, false, false) => "pid tname time ucmd",
        }
        .split(' ')
        .collect();
        if !self.between.is_empty() {
            names = vec!["pid", "s", "tname", "time", "command"];
        }
        if self.resident && self.kind == Kind::Long {
            names.retain(|name| *name != "f");
            replace(&mut names, "addr", "rss");
        }
        if self.lwp || self.spid {
            let after = if names.contains(&"ppid") { "ppid" } else { "pid" };
            let after = if self.spid { "pid" } else { after };
            insert(&mut names, after, if self.spid { "spid" } else { "lwp" });
            if self.lwp {
                insert(&mut names, "c", "nlwp");
            }
        }
        if self.label {
            names.insert(0, "label");
        }
        let mut columns: Vec<Column> = names.into_iter().filter_map(columns::find).collect();
        columns.splice(1..1, self.between);
        columns
    }
}

fn replace(names: &mut [&'static str], old: &str, new: &'static str) {
    for name in names.iter_mut().filter(|name| **name == old) {
        *name = new;
    }
}

fn insert<'a>(names: &mut Vec<&'a str>, after: &str, new: &'a str) {
    if let Some(place) = names.iter().position(|name| *name == after) {
        names.insert(place + 1, new);
    }
}

/// Names of columns, separated by commas; `name=title` gives one another title.
fn list(text: &str) -> Result<Vec<Column>, String> {
    let column = |word: &str| {
        let (name, title) = word
            .split_once('=')
            .map_or((word, None), |(name, title)| (name, Some(title)));
        // A width, which cells do not have here.
        let name = name.split_once(':').map_or(name, |(name, _)| name);
        let mut column =
            columns::find(name).ok_or_else(|| format!("unknown user-defined format specifier \"{name}\""))?;
        if let Some(title) = title {
            title.clone_into(&mut column.title);
        }
        Ok(column)
    };
    text.split(',').map(column).collect()
}

fn numbers(text: &str) -> Result<Vec<i32>, String> {
    let number = |word: String| {
        word.parse()
            .map_err(|_| "process ID list syntax error".to_owned())
    };
    texts(text).map(number).collect()
}

fn texts(text: &str) -> impl Iterator<Item = String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned)
}

fn unknown(option: &str) -> String {
    format!("error: unsupported option {option}")
}

fn missing(option: &str) -> String {
    format!("error: option {option} needs a value")
}
