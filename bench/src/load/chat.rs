//! The load of a chat: all members speak, and each line goes to all of them.
//!
//! A line names its speaker and its number. Each member checks that it hears the lines of each
//! speaker in order, and nothing else.

use std::io;
use std::net::{SocketAddr, TcpStream};

use couplet_os::read_buffer::ReadBuffer;

use super::bytes::MESSAGE;
use super::{Clients, Waiting, connect, cut, receive_some, send_all, wrong};

/// Most bytes that a member receives at a time.
const SOME: usize = 256 << 10;

/// The members of a chat.
#[derive(Debug)]
pub(crate) struct Chat {
    waiting: Waiting,
    members: Vec<Member>,
    buffer: ReadBuffer,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    said: u32,
    /// How many lines it has heard of each member.
    heard: Vec<u32>,
    /// The beginning of a line.
    partial: Vec<u8>,
}

impl Chat {
    /// Members of a server that sends all that it receives to all. `spin` if no other process needs
    /// the processor.
    pub(crate) fn connect(server: SocketAddr, spin: bool, count: usize) -> io::Result<Chat> {
        let (waiting, buffer) = (Waiting::new(spin)?, ReadBuffer::new(SOME));
        let mut chat = Chat { waiting, members: Vec::new(), buffer };
        for slot in 0..count {
            let stream = connect(server)?;
            chat.waiting.add(&stream, slot)?;
            let (heard, partial) = (vec![0; count], Vec::new());
            chat.members.push(Member { stream, said: 0, heard, partial });
            // Once it hears itself the server knows it, and it hears all further lines.
            chat.send(slot, 1)?;
            let mut events = Vec::with_capacity(1024);
            while chat.members[slot].heard[slot] == 0 {
                chat.waiting.wait(&mut events)?;
                for event in events.drain(..) {
                    chat.receive(event.data.u64() as usize)?;
                }
            }
            // The earlier lines of the others were before its time.
            for other in 0..slot {
                let said = chat.members[other].said;
                chat.members[slot].heard[other] = said;
            }
        }
        Ok(chat)
    }
}

/// A speaker's line of this number.
fn line(speaker: u32, number: u32) -> [u8; MESSAGE] {
    let mut line = [0; MESSAGE];
    let mut text = u64::from(speaker) << 32 | u64::from(number);
    // Digits without line ends; each line differs from the others in all of its parts.
    for byte in &mut line[..MESSAGE - 2] {
        *byte = b'A' + (text & 15) as u8;
        text = text.rotate_right(4);
    }
    line[MESSAGE - 2..].copy_from_slice(b"\r\n");
    line
}

/// The speaker and the number of a line.
fn speaker_of(line: &[u8]) -> (u32, u32) {
    let digits = line[..16].iter().rev();
    let text = digits.fold(0, |text, byte| text << 4 | u64::from(byte.wrapping_sub(b'A') & 15));
    ((text >> 32) as u32, text as u32)
}

impl Member {
    fn hear(&mut self, heard: &[u8]) -> io::Result<()> {
        let (speaker, number) = speaker_of(heard);
        let last = self.heard.get_mut(speaker as usize);
        let last = last.ok_or_else(|| wrong("a line of nobody"))?;
        *last += 1;
        if *last != number || heard != line(speaker, number) {
            return Err(wrong("another line than the speaker's next one"));
        }
        Ok(())
    }
}

impl Clients for Chat {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn send(&mut self, slot: usize, requests: usize) -> io::Result<()> {
        let member = &mut self.members[slot];
        (0..requests).try_for_each(|_| {
            member.said += 1;
            send_all(&member.stream, &line(slot as u32, member.said))
        })
    }

    /// Returns how many of the lines that it said the member has heard.
    fn receive(&mut self, slot: usize) -> io::Result<usize> {
        let member = &mut self.members[slot];
        let before = member.heard[slot];
        let mut data = receive_some(&member.stream, &mut self.buffer)?.ok_or_else(cut)?;
        if !member.partial.is_empty() {
            let (rest, after) = data.split_at(data.len().min(MESSAGE - member.partial.len()));
            member.partial.extend_from_slice(rest);
            data = after;
            if member.partial.len() == MESSAGE {
                let whole = std::mem::take(&mut member.partial);
                member.hear(&whole)?;
            }
        }
        let (lines, rest) = data.as_chunks::<MESSAGE>();
        lines.iter().try_for_each(|line| member.hear(line))?;
        member.partial.extend_from_slice(rest);
        Ok((member.heard[slot] - before) as usize)
    }

    fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::{line, speaker_of};

    #[test]
    fn a_line_names_its_speaker_and_its_number() {
        for said in [(0, 0), (7, 1), (999, 4_000_000_000)] {
            let line = line(said.0, said.1);
            assert_eq!(speaker_of(&line), said);
            assert!(!line[..62].contains(&b'\n') && line.ends_with(b"\r\n"), "{line:?}");
        }
    }
}
