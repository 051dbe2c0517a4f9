//! How much memory our proxy takes: by itself, and for clients that are connected and silent.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    contender::Contender,
    frames::{self, Connection, Event, PREFACE},
    machine,
    scenario::Scenario,
};

/// Until what has begun has ended.
const PAUSE: Duration = Duration::from_secs(2);

/// A client that says no more than it must.
struct Client {
    tcp: TcpStream,
    connection: Connection,
}

/// Tells what is resident without clients, with so many, after `scenario` on each of them, and when they have gone.
pub(crate) async fn measure(
    contender: &Contender,
    scenario: &Scenario,
    connections: usize,
) -> Result<String, String> {
    let pid = contender.pid().ok_or("only a proxy has memory of its own")?;
    let resident = async || {
        sleep(PAUSE).await;
        machine::memory(pid).0
    };
    let idle = resident().await;
    let own = machine::own_memory(pid);
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = Client::connect(contender.grpc).await;
        clients.push(client.map_err(|reason| format!("connection {}: {reason}", clients.len() + 1))?);
    }
    let connected = resident().await;
    for (number, client) in clients.iter_mut().enumerate() {
        client
            .ask(contender.grpc, scenario)
            .await
            .map_err(|reason| format!("request {}: {reason}", number + 1))?;
    }
    let asked = resident().await;
    drop(clients);
    let gone = resident().await;
    let each = |with: u64| with.saturating_sub(idle) as f64 / connections.max(1) as f64;
    Ok(format!(
        "resident, idle                                    {:>9.1} MB, {:.1} MB without the program's file\n\
         with {connections} idle HTTP/2 connections                {:>9.1} MB, {:.1} KiB each\n\
         after one request on each, one at a time          {:>9.1} MB, {:.1} KiB each\n\
         when they have gone                               {:>9.1} MB\n",
        megabytes(idle),
        megabytes(own),
        megabytes(connected),
        each(connected),
        megabytes(asked),
        each(asked),
        megabytes(gone),
    ))
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

impl Client {
    /// Connects, and takes and confirms the settings of the other end.
    async fn connect(address: SocketAddr) -> Result<Self, String> {
        let mut tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        tcp.write_all(PREFACE).await.map_err(|error| error.to_string())?;
        let mut client = Self { tcp, connection: Connection::new() };
        client.exchange(|_| ()).await?;
        client.flush().await?;
        Ok(client)
    }

    async fn ask(&mut self, authority: SocketAddr, scenario: &Scenario) -> Result<(), String> {
        let block = frames::first_request(&authority.to_string(), &scenario.path);
        self.connection.send(1, &block, scenario.body.clone(), None);
        let mut answer = None;
        while answer.is_none() {
            self.exchange(|event| {
                answer = Some(match event {
                    Event::Complete(_, length) if length == scenario.reply.len() as u64 => Ok(()),
                    Event::Complete(_, _) => Err("an answer other than the backend's".to_owned()),
                    Event::Reset(_, code) => Err(format!("reset with code {code}")),
                });
            })
            .await?;
        }
        self.flush().await?;
        answer.unwrap_or(Ok(()))
    }

    /// Sends what is to be sent and takes what comes next.
    async fn exchange(&mut self, event: impl FnMut(Event)) -> Result<(), String> {
        self.flush().await?;
        let mut buffer = [0; 16 << 10];
        let length = self.tcp.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if length == 0 {
            return Err("the connection was closed".to_owned());
        }
        self.connection.read(&buffer[..length], event)
    }

    async fn flush(&mut self) -> Result<(), String> {
        let out = std::mem::take(&mut self.connection.out);
        self.tcp.write_all(&out).await.map_err(|error| error.to_string())
    }
}
