//! An authoritative DNS server whose answers can be changed, and spoiled, while it runs.
//!
//! It behaves as CoreDNS does for a cluster: addresses of a headless name in changing order, SRV records that tie pod
//! names to addresses, `NXDOMAIN` with an SOA for what is not there, and truncation over UDP when an answer exceeds 512
//! bytes or what the client advertised by EDNS. The last is done by hickory's encoder and not by this module.
//!
//! [`DnsMode`] is what can go wrong, for one name or for all.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::lock;

/// Tried in this order: the port of every resolver's configuration, one an ordinary user may bind, then any.
const PORTS: [u16; 3] = [53, 5353, 0];

/// With a port chosen by the kernel for UDP, TCP may find the same one taken.
const ANY_PORT_ATTEMPTS: usize = 16;

/// CoreDNS' own default.
const DEFAULT_TTL: u32 = 5;

/// How long an idle TCP connection stays open, and how many answers may wait in it.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_BUFFER: usize = 32;

/// How a name, or every name, is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsMode {
    /// From the table: the records, or `NXDOMAIN` for a name that is not in it.
    #[default]
    Answer,
    /// `NXDOMAIN`, as CoreDNS says of a headless Service without endpoints.
    NxDomain,
    /// `SERVFAIL`, as of a server that has lost its upstream.
    ServFail,
    /// No answer at all.
    Timeout,
    /// `NOERROR` without records.
    Empty,
    /// Over UDP, no records and the flag that tells the client to come back over TCP, however short the answer is.
    Truncate,
}

/// A DNS server on UDP and TCP of one address. It ends when it is dropped.
pub struct DnsServer {
    addr: SocketAddr,
    table: Arc<Mutex<Table>>,
    _server: Server<Handler>,
}

#[derive(Default)]
struct Table {
    ttl: u32,
    mode: DnsMode,
    modes: HashMap<Name, DnsMode>,
    addresses: HashMap<Name, Vec<IpAddr>>,
    services: HashMap<Name, Vec<(Name, u16)>>,
    queries: HashMap<Name, u64>,
}

/// What to say to one query: decided under the lock, sent without it.
enum Verdict {
    Silence,
    Say(Reply),
}

#[derive(Default)]
struct Reply {
    code: ResponseCode,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

struct Handler(Arc<Mutex<Table>>);

// === impl DnsServer ===

impl DnsServer {
    /// Serves port 53 of `ip` or, where that is not allowed or taken, 5353 or any. [`DnsServer::addr`] tells which.
    ///
    /// # Errors
    ///
    /// When no port of the address can be bound.
    pub async fn start(ip: IpAddr) -> io::Result<DnsServer> {
        let (udp, tcp) = bind(ip).await?;
        let addr = udp.local_addr()?;
        let table = Arc::new(Mutex::new(Table { ttl: DEFAULT_TTL, ..Table::default() }));
        let mut server = Server::new(Handler(Arc::clone(&table)));
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
        Ok(DnsServer { addr, table, _server: server })
    }

    /// Where to ask.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Gives a name these addresses: IPv4 ones become A records, IPv6 ones AAAA. With none, the name exists but has no
    /// records; [`DnsServer::remove`] makes it unknown.
    ///
    /// # Panics
    ///
    /// As every method that takes a name: when it is none.
    pub fn set(&self, name: &str, addresses: Vec<IpAddr>) {
        lock(&self.table).addresses.insert(key(name), addresses);
    }

    /// Gives a name these SRV records, one per (target, port). The targets' addresses come along in the answer.
    pub fn set_srv(&self, name: &str, targets: &[(&str, u16)]) {
        let targets = targets.iter().map(|(target, port)| (key(target), *port)).collect();
        lock(&self.table).services.insert(key(name), targets);
    }

    /// Forgets a name.
    pub fn remove(&self, name: &str) {
        let name = key(name);
        let mut table = lock(&self.table);
        table.addresses.remove(&name);
        table.services.remove(&name);
    }

    /// The addresses a name has now.
    #[must_use]
    pub fn get(&self, name: &str) -> Vec<IpAddr> {
        lock(&self.table).addresses.get(&key(name)).cloned().unwrap_or_default()
    }

    /// How many seconds answers may be kept; also the minimum of the SOA, which governs negative answers.
    pub fn set_ttl(&self, seconds: u32) {
        lock(&self.table).ttl = seconds;
    }

    /// How every name is answered that has no mode of its own.
    pub fn set_mode(&self, mode: DnsMode) {
        lock(&self.table).mode = mode;
    }

    /// How one name is answered, whatever the mode of the others. [`DnsMode::Answer`] makes it sound again.
    pub fn set_mode_for(&self, name: &str, mode: DnsMode) {
        lock(&self.table).modes.insert(key(name), mode);
    }

    /// Puts all names under the common mode, and that to [`DnsMode::Answer`].
    pub fn heal(&self) {
        let mut table = lock(&self.table);
        table.mode = DnsMode::Answer;
        table.modes.clear();
    }

    /// How many queries came for a name, of any type and over UDP or TCP, including those left without an answer.
    #[must_use]
    pub fn queries(&self, name: &str) -> u64 {
        lock(&self.table).queries.get(&key(name)).copied().unwrap_or_default()
    }
}

impl fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Names compare without regard to case and are absolute, with or without the final dot.
fn key(name: &str) -> Name {
    let mut name = Name::from_str(name).unwrap_or_else(|error| panic!("{name:?} is no DNS name: {error}"));
    name.set_fqdn(true);
    name.to_lowercase()
}

async fn bind(ip: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let any = std::iter::repeat_n(0, ANY_PORT_ATTEMPTS);
    for port in PORTS.into_iter().chain(any) {
        match bind_at(SocketAddr::new(ip, port)).await {
            Ok(pair) => return Ok(pair),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn bind_at(addr: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(addr).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}

// === impl Table ===

impl Table {
    fn decide(&mut self, name: &Name, kind: RecordType, protocol: Protocol) -> Verdict {
        let count = self.queries.entry(name.clone()).or_default();
        *count += 1;
        let turn = *count;
        let negative =
            |code| Verdict::Say(Reply { code, authorities: vec![soa(name, self.ttl)], ..Reply::default() });
        match self.modes.get(name).copied().unwrap_or(self.mode) {
            DnsMode::Timeout => Verdict::Silence,
            DnsMode::ServFail => Verdict::Say(Reply { code: ResponseCode::ServFail, ..Reply::default() }),
            DnsMode::NxDomain => negative(ResponseCode::NXDomain),
            DnsMode::Empty => negative(ResponseCode::NoError),
            DnsMode::Truncate if protocol == Protocol::Udp => {
                Verdict::Say(Reply { truncated: true, ..Reply::default() })
            }
            DnsMode::Answer | DnsMode::Truncate => {
                if !self.addresses.contains_key(name) && !self.services.contains_key(name) {
                    return negative(ResponseCode::NXDomain);
                }
                let (answers, additionals) = self.records(name, kind, turn);
                if answers.is_empty() {
                    return negative(ResponseCode::NoError);
                }
                Verdict::Say(Reply { answers, additionals, ..Reply::default() })
            }
        }
    }

    fn records(&self, name: &Name, kind: RecordType, turn: u64) -> (Vec<Record>, Vec<Record>) {
        if kind != RecordType::SRV {
            let mut answers = self.address_records(name, kind);
            // CoreDNS shuffles. Turning the list gives the same lesson, that order means nothing, without dice.
            let length = u64::try_from(answers.len()).unwrap_or(u64::MAX).max(1);
            answers.rotate_left(usize::try_from(turn % length).unwrap_or_default());
            return (answers, Vec::new());
        }
        let targets = self.services.get(name).map(Vec::as_slice).unwrap_or_default();
        let answers = targets.iter().map(|(target, port)| {
            Record::from_rdata(name.clone(), self.ttl, RData::SRV(SRV::new(0, 100, *port, target.clone())))
        });
        let glue = targets.iter().flat_map(|(target, _)| {
            [RecordType::A, RecordType::AAAA].into_iter().flat_map(|kind| self.address_records(target, kind))
        });
        (answers.collect(), glue.collect())
    }

    fn address_records(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        let addresses = self.addresses.get(name).map(Vec::as_slice).unwrap_or_default();
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(v4) => RData::A((*v4).into()),
            IpAddr::V6(v6) => RData::AAAA((*v6).into()),
        });
        data.filter(|data| data.record_type() == kind)
            .map(|data| Record::from_rdata(name.clone(), self.ttl, data))
            .collect()
    }
}

/// The SOA that a negative answer needs to be kept at all. Its zone is the last two labels: `cluster.local.`
fn soa(name: &Name, ttl: u32) -> Record {
    let zone = name.trim_to(2);
    let server = zone.prepend_label("ns").unwrap_or_else(|_| zone.clone());
    let mailbox = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
    let minimum = ttl;
    Record::from_rdata(zone, ttl, RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, minimum)))
}

// === impl Handler ===

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responder: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let verdict = match request.request_info() {
            Ok(info) => {
                let name = Name::from(info.query.name().clone());
                lock(&self.0).decide(&name, info.query.query_type(), info.protocol)
            }
            Err(_) => Verdict::Say(Reply { code: ResponseCode::FormErr, ..Reply::default() }),
        };
        let silent = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Verdict::Say(reply) = verdict else {
            return silent;
        };
        metadata.response_code = reply.code;
        metadata.truncation = reply.truncated;
        let mut edns = Edns::new();
        // The encoder takes the limit for UDP from the EDNS of the *answer*.
        edns.set_max_payload(request.max_payload());
        let mut response = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            response.edns(&edns);
        }
        let response = response.build(metadata, &reply.answers, &reply.authorities, None, &reply.additionals);
        // The client may be gone. It will ask again or not; there is nobody here to tell.
        responder.send_response(response).await.unwrap_or(silent)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::Block;

    const HEADLESS: &str = "qdrant-headless.demo.svc.cluster.local.";

    /// Addresses by the number, in the order of the number.
    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count).map(|i| IpAddr::V4(Ipv4Addr::new(10, 0, 0, i))).collect()
    }

    async fn server(block: &Block) -> DnsServer {
        DnsServer::start(block.dns()).await.expect("a port for DNS")
    }

    fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().expect("encodable")
    }

    async fn send_udp(dns: &DnsServer, question: &[u8]) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(dns.addr()).await.expect("connected");
        socket.send(question).await.expect("sent");
        socket
    }

    async fn udp(dns: &DnsServer, name: &str, kind: RecordType, payload: Option<u16>) -> (Message, usize) {
        let socket = send_udp(dns, &question(name, kind, payload)).await;
        let mut buffer = vec![0; 65_535];
        let length = socket.recv(&mut buffer).await.expect("an answer");
        (Message::from_vec(&buffer[..length]).expect("a message"), length)
    }

    async fn tcp(dns: &DnsServer, name: &str, kind: RecordType) -> Message {
        let question = question(name, kind, None);
        let mut stream = TcpStream::connect(dns.addr()).await.expect("connected");
        stream.write_u16(u16::try_from(question.len()).expect("short")).await.expect("sent");
        stream.write_all(&question).await.expect("sent");
        let mut answer = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
        stream.read_exact(&mut answer).await.expect("an answer");
        Message::from_vec(&answer).expect("a message")
    }

    fn ips(message: &Message) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> =
            message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        ips.sort_unstable();
        ips
    }

    #[tokio::test]
    async fn answers_by_type_without_regard_to_case() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        let v6: IpAddr = "::1".parse().expect("an address");
        let mut all = addresses(3);
        all.push(v6);
        dns.set(HEADLESS, all);
        dns.set_ttl(17);

        let (message, _) = udp(&dns, "Qdrant-Headless.DEMO.svc.cluster.local.", RecordType::A, None).await;
        assert_eq!(ips(&message), addresses(3));
        assert!(message.metadata.authoritative);
        assert!(message.answers.iter().all(|record| record.ttl == 17));
        let (message, _) = udp(&dns, HEADLESS, RecordType::AAAA, Some(1232)).await;
        assert_eq!(ips(&message), [v6]);
        assert!(message.edns.is_some());
        assert_eq!(dns.queries(HEADLESS), 2);
    }

    #[tokio::test]
    async fn order_changes_from_answer_to_answer() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        dns.set(HEADLESS, addresses(3));
        let mut first = Vec::new();
        for _ in 0..3 {
            first.extend(udp(&dns, HEADLESS, RecordType::A, None).await.0.answers[0].data.ip_addr());
        }
        first.sort_unstable();
        assert_eq!(first, addresses(3));
    }

    #[tokio::test]
    async fn unknown_names_are_nxdomain_with_an_soa() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        dns.set(HEADLESS, addresses(1));
        dns.remove(HEADLESS);
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(message.authorities[0].name, key("cluster.local"));
        // A name without records of the type asked for exists all the same.
        dns.set(HEADLESS, addresses(1));
        let (message, _) = udp(&dns, HEADLESS, RecordType::AAAA, None).await;
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
    }

    #[tokio::test]
    async fn long_answers_are_truncated_over_udp_and_whole_over_tcp() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        dns.set(HEADLESS, addresses(60));

        let (message, length) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert!(message.metadata.truncation && length <= 512 && message.answers.len() < 60, "{length} bytes");
        let (message, length) = udp(&dns, HEADLESS, RecordType::A, Some(700)).await;
        assert!(message.metadata.truncation && length > 512 && length <= 700, "{length} bytes");
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, Some(1232)).await;
        assert!(!message.metadata.truncation);
        assert_eq!(ips(&message), addresses(60));
        let message = tcp(&dns, HEADLESS, RecordType::A).await;
        assert!(!message.metadata.truncation);
        assert_eq!(ips(&message), addresses(60));
    }

    #[tokio::test]
    async fn modes_change_at_run_time() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        dns.set(HEADLESS, addresses(2));
        dns.set("other.demo.svc.cluster.local", addresses(1));

        dns.set_mode(DnsMode::ServFail);
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        dns.set_mode_for(HEADLESS, DnsMode::Empty);
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0));
        let (message, _) = udp(&dns, "other.demo.svc.cluster.local.", RecordType::A, None).await;
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        dns.set_mode_for(HEADLESS, DnsMode::NxDomain);
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        dns.set_mode_for(HEADLESS, DnsMode::Truncate);
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, Some(1232)).await;
        assert!(message.metadata.truncation && message.answers.is_empty());
        assert_eq!(ips(&tcp(&dns, HEADLESS, RecordType::A).await), addresses(2));
        dns.heal();
        let (message, _) = udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!(ips(&message), addresses(2));
    }

    #[tokio::test]
    async fn a_silent_server_counts_what_it_ignores() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        dns.set(HEADLESS, addresses(1));
        dns.set_mode_for(HEADLESS, DnsMode::Timeout);
        let silent = send_udp(&dns, &question(HEADLESS, RecordType::A, None)).await;
        while dns.queries(HEADLESS) == 0 {
            tokio::task::yield_now().await;
        }
        // The answer to a later question is there, so one to the first would be too.
        dns.set_mode_for(HEADLESS, DnsMode::Answer);
        udp(&dns, HEADLESS, RecordType::A, None).await;
        assert_eq!(silent.try_recv(&mut [0; 512]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn srv_ties_names_to_addresses() {
        let block = Block::claim().expect("a free block");
        let dns = server(&block).await;
        let pod = "qdrant-0.qdrant-headless.demo.svc.cluster.local.";
        dns.set(pod, addresses(1));
        dns.set_srv("_grpc._tcp.qdrant-headless.demo.svc.cluster.local.", &[(pod, 6334)]);
        let (message, _) =
            udp(&dns, "_grpc._tcp.qdrant-headless.demo.svc.cluster.local.", RecordType::SRV, None).await;
        let RData::SRV(srv) = &message.answers[0].data else {
            panic!("no SRV: {message}");
        };
        assert_eq!((srv.port, &srv.target), (6334, &key(pod)));
        assert_eq!(message.additionals[0].data.ip_addr(), Some(addresses(1)[0]));
    }
}
