//! A stand-in for sticky-overseer, as far as a client can tell: our own daemon behind a relay that knows no extension.
//! It answers their requests as the original does, and takes the added fields out of what the daemon says.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the failure")]

use std::{
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, protocol::WebSocketConfig};

use crate::hub::Hub;

/// Requests that the original does not know.
const UNKNOWN: [&str; 3] = ["hello", "remove", "history"];

/// Fields that the original does not send.
const ADDED: [&str; 3] = ["phase", "signal", "truncated"];

/// Starts the relay; it ends with the process. Returns its address.
pub(crate) fn in_front_of(hub: &Hub) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let daemon = hub.address.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let daemon = daemon.clone();
            thread::spawn(move || relay(client.unwrap(), &daemon));
        }
    });
    address
}

fn relay(client: TcpStream, daemon: &str) {
    let mut client = tungstenite::accept(client).unwrap();
    let stream = TcpStream::connect(daemon).unwrap();
    let limits = WebSocketConfig::default()
        .max_frame_size(None)
        .max_message_size(None);
    let uri = format!("ws://{daemon}/ws");
    let (mut hub, _) = tungstenite::client::client_with_config(uri, stream, Some(limits)).unwrap();
    for stream in [client.get_ref(), hub.get_ref()] {
        stream
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
    }
    // Either side ending ends the other.
    while let (Some(requests), Some(messages)) = (take(&mut client), take(&mut hub)) {
        for request in requests {
            let known = !UNKNOWN.contains(&request["type"].as_str().unwrap_or_default());
            let (to_hub, message) = if known {
                (true, request)
            } else {
                (false, refusal(&request))
            };
            let sent = if to_hub {
                send(&mut hub, &message)
            } else {
                send(&mut client, &message)
            };
            if !sent {
                return;
            }
        }
        for message in messages {
            if !send(&mut client, &plain(message)) {
                return;
            }
        }
    }
}

/// What has come within a moment; nothing when the connection has ended.
fn take(socket: &mut WebSocket<TcpStream>) -> Option<Vec<Value>> {
    let mut messages = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push(serde_json::from_str(&text).unwrap()),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                return Some(messages);
            }
            Err(_) if messages.is_empty() => return None,
            Err(_) => return Some(messages),
        }
    }
}

fn send(socket: &mut WebSocket<TcpStream>, message: &Value) -> bool {
    socket.send(Message::text(format!("{message}\n"))).is_ok()
}

fn refusal(request: &Value) -> Value {
    let kind = request["type"].as_str().unwrap_or_default();
    json!({ "type": "error", "id": request["id"], "message": format!("unknown message type: {kind}") })
}

/// A message without what was added to it; rows of tasks in an order that means nothing.
fn plain(mut message: Value) -> Value {
    if let Some(rows) = message["tasks"].as_array_mut() {
        rows.reverse();
        rows.iter_mut().for_each(strip);
    }
    strip(&mut message);
    message
}

fn strip(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|key, _| !ADDED.contains(&key.as_str()));
        // `tasks` of a message that has none was made by looking at it.
        fields.retain(|key, value| key != "tasks" || !value.is_null());
    }
}
