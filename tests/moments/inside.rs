//! The process in the node: a writer that never pauses, and beside it an ear for the
//! questions of the test outside.
//!
//! What a reader gets wrong: what is answered of the writer is looked up between question
//! and answer. So a record that is begun in an answer before a call has a synced one before
//! it, and none that is not begun in an answer after the call's is in the moment.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::records::{Held, Place, Writer};
use super::support::inside::{Inside, variable};
use super::support::lab::{Lab, Running};

const PORT: u16 = 9100;

/// How far the writer is.
#[derive(Default)]
struct Progress {
    /// The record that was begun last; all before it are synced.
    begun: AtomicU64,
    /// The longest time for one record since somebody asked.
    longest_micros: AtomicU64,
    stop: AtomicBool,
}

#[test]
#[ignore = "runs inside a node"]
fn writes_and_answers() {
    let place = Place::at(&variable("PLACE"));
    let progress = Arc::new(Progress::default());
    let mut writer = Some(start(place, Arc::clone(&progress)));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    for connection in listener.incoming() {
        let mut question = String::new();
        let mut connection = connection.unwrap();
        BufReader::new(connection.try_clone().unwrap()).read_line(&mut question).unwrap();
        if question.is_empty() {
            continue; // somebody looked whether this listens
        }
        if question.trim() == "stop" {
            progress.stop.store(true, Ordering::SeqCst);
            writer.take().unwrap().join().unwrap();
        }
        // A writer that ended by itself met an error, which its thread has printed.
        let goes_on = writer.as_ref().is_none_or(|writer| !writer.is_finished());
        let answer =
            if goes_on { answer(question.trim(), &progress) } else { Err("the writer ended".into()) };
        let (word, text) = answer.map_or_else(|error| ("fault", error), |text| ("ok", text));
        writeln!(connection, "{word} {text}").unwrap();
        if question.trim() == "end" {
            return;
        }
    }
}

fn start(place: Place, progress: Arc<Progress>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut writer = Writer::new(place);
        for number in 1.. {
            if progress.stop.load(Ordering::SeqCst) {
                return;
            }
            progress.begun.store(number, Ordering::SeqCst);
            let since = Instant::now();
            writer.write(number).unwrap_or_else(|error| panic!("record {number}: {error}"));
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap();
            progress.longest_micros.fetch_max(micros, Ordering::SeqCst);
        }
    })
}

fn answer(question: &str, progress: &Progress) -> Result<String, String> {
    let words: Vec<&str> = question.split(' ').collect();
    let whole = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    match words[..] {
        ["progress"] => {
            let begun = progress.begun.load(Ordering::SeqCst);
            Ok(format!("{begun} {}", progress.longest_micros.swap(0, Ordering::SeqCst)))
        }
        ["size", path] => Place::at(path).size().map(|size| size.to_string()).map_err(|e| e.to_string()),
        ["held", path] => {
            let Held { first, last, torn } = Place::at(path).held()?;
            Ok(format!("{first} {last} {}", u64::from(torn)))
        }
        ["write", path, number, offset] => {
            let written = Place::at(path).write_still(whole(number)?, whole(offset)?);
            written.map(|()| String::new()).map_err(|error| error.to_string())
        }
        ["has", path, number, offset] => {
            Place::at(path).has_still(whole(number)?, whole(offset)?).map(|has| u64::from(has).to_string())
        }
        ["stop"] | ["end"] => Ok(String::new()),
        _ => Err(format!("what is {question:?}?")),
    }
}

/// That process as the test outside has it.
pub struct Mouth {
    address: String,
    process: Running,
}

impl Mouth {
    /// Starts it; it writes to that path of the node.
    pub fn start(lab: &Lab, place: &str) -> Self {
        let mut command = Inside::new(lab).with("PLACE", place).command("inside::writes_and_answers");
        let process = Running(command.spawn().unwrap());
        let this = Self { address: format!("{}:{PORT}", lab.node(0).ip), process };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&this.address).is_err() {
            assert!(Instant::now() < until, "the writer does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    /// One question; its answer's numbers.
    #[track_caller]
    fn ask(&self, question: &str) -> Vec<u64> {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        writeln!(connection, "{question}").unwrap();
        let mut answer = String::new();
        BufReader::new(connection).read_line(&mut answer).unwrap();
        let numbers = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{question}: {answer}"));
        numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// The record that was begun last, all before which are synced; and the longest time
    /// that one record took since this was asked.
    #[track_caller]
    pub fn begun(&self) -> (u64, Duration) {
        let answer = self.ask("progress");
        (answer[0], Duration::from_micros(answer[1]))
    }

    /// Bytes of the file system or the device at that path.
    #[track_caller]
    pub fn size(&self, path: &str) -> u64 {
        self.ask(&format!("size {path}"))[0]
    }

    /// The records there; it fails where one of them is wrong.
    #[track_caller]
    pub fn held(&self, path: &str) -> Held {
        let answer = self.ask(&format!("held {path}"));
        Held { first: answer[0], last: answer[1], torn: answer[2] == 1 }
    }

    /// Writes bytes that stay; on a device they are at that offset.
    #[track_caller]
    pub fn write_still(&self, path: &str, number: u64, offset: u64) {
        self.ask(&format!("write {path} {number} {offset}"));
    }

    /// Whether they are there, all of them.
    #[track_caller]
    pub fn has_still(&self, path: &str, number: u64, offset: u64) -> bool {
        self.ask(&format!("has {path} {number} {offset}")) == [1]
    }

    /// Stops the writer after the record that it is at; the ear stays.
    #[track_caller]
    pub fn stop(&self) {
        self.ask("stop");
    }

    /// Ends the process; it met no error.
    pub fn end(mut self) {
        self.ask("end");
        assert!(self.process.0.wait().unwrap().success(), "the writer's process failed");
    }
}
