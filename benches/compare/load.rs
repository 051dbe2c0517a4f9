//! Closed-loop load: each connection sends its next request when an answer has come.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, spawn_local},
    time::{sleep, timeout},
};

use crate::{
    contender::Contender,
    frames::{self, Connection, Event, Messages, PREFACE},
    machine,
    scenario::{Protocol, Scenario},
};

/// Before figures are taken.
const WARM_UP: Duration = Duration::from_millis(400);
/// How long answers may take that are still awaited at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// What one run showed.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// The first error in words.
    pub(crate) error: Option<String>,
    pub(crate) elapsed: Duration,
    /// Of the proxy.
    pub(crate) cpu: Duration,
    /// In nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Resident now and at most, in KiB.
    pub(crate) memory: (u64, u64),
}

#[derive(Debug)]
struct Tally {
    is_measuring: bool,
    is_over: bool,
    requests: u64,
    errors: u64,
    error: Option<String>,
    latencies: Histogram<u64>,
}

// === impl Tally ===

impl Tally {
    fn answered(&mut self, began: Instant, is_right: bool) {
        if self.is_measuring {
            self.requests += 1;
            let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(nanoseconds);
        }
        if !is_right {
            self.failed(|| "an answer other than the backend's".to_owned());
        }
    }

    /// Errors count whenever they happen.
    fn failed(&mut self, reason: impl FnOnce() -> String) {
        self.errors += 1;
        self.error.get_or_insert_with(reason);
    }
}

/// Puts `contender` through `scenario`.
pub(crate) async fn run(scenario: &Scenario, contender: &Contender, duration: Duration) -> Sample {
    let latencies = Histogram::new_with_bounds(1000, 60_000_000_000, 3).expect("the bounds are right");
    let tally = Tally { is_measuring: false, is_over: false, requests: 0, errors: 0, error: None, latencies };
    let tally = Rc::new(RefCell::new(tally));
    contender.pid().into_iter().for_each(machine::forget_peak);
    let mut connections = JoinSet::new();
    for _ in 0..scenario.connections {
        let (scenario, tally) = (scenario.clone(), Rc::clone(&tally));
        let (rest, grpc, merges) = (contender.rest, contender.grpc, contender.merges(&scenario));
        connections.spawn_local(async move {
            let outcome = match scenario.protocol {
                Protocol::Rest => http1(&scenario, rest, merges, &tally).await,
                Protocol::Grpc => http2(&scenario, grpc, merges, &tally).await,
            };
            if let Err(reason) = outcome {
                tally.borrow_mut().failed(|| reason);
            }
        });
    }
    sleep(WARM_UP).await;
    let cpu = || contender.pid().map_or(Duration::ZERO, machine::cpu);
    let (began, cpu_before) = (Instant::now(), cpu());
    tally.borrow_mut().is_measuring = true;
    sleep(duration).await;
    tally.borrow_mut().is_measuring = false;
    let (elapsed, used) = (began.elapsed(), cpu().saturating_sub(cpu_before));
    tally.borrow_mut().is_over = true;
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, all).await.is_err() {
        tally.borrow_mut().failed(|| format!("no answer within {DRAIN:?}"));
    }
    let tally = tally.borrow();
    Sample {
        requests: tally.requests,
        errors: tally.errors,
        error: tally.error.clone(),
        elapsed,
        cpu: used,
        latencies: tally.latencies.clone(),
        memory: contender.pid().map_or((0, 0), machine::memory),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let tcp = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(tcp)
}

async fn http1(
    scenario: &Scenario,
    address: SocketAddr,
    merges: bool,
    tally: &RefCell<Tally>,
) -> Result<(), String> {
    let mut tcp = connect(address).await?;
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nuser-agent: compare\r\naccept: */*\r\ncontent-length: {}\r\n\r\n",
        scenario.method,
        scenario.path,
        scenario.body.len()
    );
    let request = Bytes::from([head.as_bytes(), &scenario.body].concat());
    let expected = scenario.reply.len() as u64;
    let mut messages = Messages::default();
    let mut buffer = vec![0; 256 << 10];
    while !tally.borrow().is_over {
        let began = Instant::now();
        tcp.write_all(&request).await.map_err(|error| error.to_string())?;
        let mut complete = None;
        while complete.is_none() {
            let length = tcp.read(&mut buffer).await.map_err(|error| error.to_string())?;
            if length == 0 {
                return Err("the connection was closed".to_owned());
            }
            messages.read(buffer.get(..length).unwrap_or_default(), |message| complete = Some(message))?;
        }
        if let Some(reply) = complete {
            let status = reply.head.get(9..12).unwrap_or_default();
            let is_right = status == "200" && (reply.body == expected || merges);
            tally.borrow_mut().answered(began, is_right);
        }
    }
    Ok(())
}

async fn http2(
    scenario: &Scenario,
    address: SocketAddr,
    merges: bool,
    tally: &RefCell<Tally>,
) -> Result<(), String> {
    let mut tcp = connect(address).await?;
    tcp.write_all(PREFACE).await.map_err(|error| error.to_string())?;
    let (mut input, mut output) = tcp.split();
    let mut connection = Connection::new();
    let mut began: HashMap<u32, Instant> = HashMap::new();
    let first = frames::first_request(&address.to_string(), &scenario.path);
    let expected = scenario.reply.len() as u64;
    let mut next = 1;
    let mut buffer = vec![0; 256 << 10];
    let mut written = 0;
    for _ in 0..scenario.streams {
        let block = if next == 1 { &first[..] } else { &frames::NEXT_REQUEST[..] };
        began.insert(next, Instant::now());
        connection.send(next, block, scenario.body.clone(), None);
        next += 2;
    }
    while !began.is_empty() {
        let arrived = tokio::select! {
            biased;
            sent = output.write(connection.out.get(written..).unwrap_or_default()), if written < connection.out.len() => {
                written += sent.map_err(|error| error.to_string())?;
                if written == connection.out.len() {
                    connection.out.clear();
                    written = 0;
                    connection.refill();
                }
                continue;
            }
            arrived = input.read(&mut buffer) => arrived,
        };
        let length = arrived.map_err(|error| error.to_string())?;
        if length == 0 {
            return Err("the connection was closed".to_owned());
        }
        let mut ended = 0;
        connection.read(buffer.get(..length).unwrap_or_default(), |event| {
            let mut tally = tally.borrow_mut();
            match event {
                Event::Complete(stream, length) => {
                    if let Some(began) = began.remove(&stream) {
                        tally.answered(began, length == expected || merges && length > 0);
                        ended += 1;
                    }
                }
                Event::Reset(stream, code) => {
                    if began.remove(&stream).is_some() {
                        tally.failed(|| format!("a stream was reset with code {code}"));
                        ended += 1;
                    }
                }
            }
        })?;
        if tally.borrow().is_over {
            continue;
        }
        for _ in 0..ended {
            began.insert(next, Instant::now());
            connection.send(next, &frames::NEXT_REQUEST, scenario.body.clone(), None);
            next += 2;
        }
    }
    // Left to itself, so that its end falls between runs.
    spawn_local(async move { drop(tcp) });
    Ok(())
}
