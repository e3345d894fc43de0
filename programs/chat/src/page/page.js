// The page of the chat. Its WebSocket carries the lines of the line protocol.
//
// Each kept line has a number, without holes: `[41] <ada> hello`. The page shows a line if its
// number follows the last one, and asks for the lines in between otherwise. So it shows each line
// once, in order, also after it was away, and at whichever server.

const one = (id) => document.getElementById(id);

/** First and longest pause before the page connects again, in milliseconds. */
const PAUSES = [500, 10_000];
/** Most lines on the page. */
const MOST = 2000;
/** Longest line, in bytes. */
const LONGEST = 512;

let socket;
let pause = PAUSES[0];
let again;
/** The last line on the page: the epoch of its history, and its number. */
let epoch;
let last;
/** The last lines on the page, by their numbers. */
const shown = new Map();
/** Whether missing lines were asked for. */
let isAsked = false;
/** The requests for the list of people without an answer. */
let listing = 0;
let own = '';
/** The name to take again after a pause, and the attempts that it is worth. */
let wanted = sessionStorage.getItem('name');
let attempts = 0;
let hasLeft = false;

function connect() {
    clearTimeout(again);
    state('connecting…', true);
    // Relative: the page may be below a path of a proxy.
    const url = new URL('lines', location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    socket = new WebSocket(url);
    [isAsked, listing] = [false, 0];
    socket.onmessage = ({ data }) => heard(String(data));
    socket.onclose = closed;
}

function closed() {
    people(0, []);
    if (hasLeft) {
        state('You have left. Reload the page to come back.', true);
        return;
    }
    const wait = pause * (0.5 + Math.random() / 2);
    pause = Math.min(pause * 2, PAUSES[1]);
    state(`Not connected; trying again in ${Math.ceil(wait / 1000)} s.`, true);
    again = setTimeout(connect, wait);
    explain();
}

/** Shows why the server refuses this page, if it does: a browser hides the answer to a WebSocket. */
async function explain() {
    const headers = { 'x-couplet-origin': location.origin };
    const answer = await fetch('lines', { headers, cache: 'no-store' }).catch(() => null);
    if (answer?.status === 403) state(await answer.text(), true);
}

function send(line) {
    if (socket.readyState !== WebSocket.OPEN) return false;
    socket.send(line);
    return true;
}

function state(text, isAway) {
    one('state').textContent = text;
    one('state').classList.toggle('away', isAway);
}

const GONE = /^(?:\[\d+\] )?\* Lines (\d+) to (\d+) are (?:not kept any more|lost)\.$/;

/** A line of the server. */
function heard(line) {
    const kept = /^\[(\d+)\] (.*)$/s.exec(line);
    const gone = GONE.exec(line);
    if (gone) {
        missing(Number(gone[1]), Number(gone[2]));
    } else if (kept) {
        numbered(Number(kept[1]), kept[2]);
    } else if (line.startsWith('* ')) {
        notice(line.slice(2));
    } else {
        // The server can't reach the others: the line comes again with its number.
        show(line, 'unkept');
    }
}

function numbered(number, line) {
    // A bus that has lost its newest lines gives their numbers to others.
    const isAnother = shown.has(number) && shown.get(number) !== line;
    if (isAnother) {
        show(`The lines begin anew, with ${number}.`, 'gap');
        shown.clear();
    }
    if (last === undefined || number === last + 1 || isAnother) {
        [last, isAsked] = [number, false];
        shown.set(number, line);
        shown.delete(number - MOST);
        show(line);
    } else if (number > last + 1 && !isAsked) {
        isAsked = send(`/from ${last}`);
    }
}

const LIST = /^(\d+) here: (.*)$/;

function notice(text) {
    const welcome = /^Welcome! You are ([\w-]+)\./.exec(text);
    const history = /^Lines have numbers, and are kept: \/from ([0-9a-f]+)-(\d+) /.exec(text);
    const anew = /^The lines begin anew, with ([0-9a-f]+)-(\d+)\.$/.exec(text);
    const renamed = /^(.*) is now ([\w-]+)$/.exec(text);
    const list = LIST.exec(text);
    if (welcome) {
        pause = PAUSES[0];
        state('Connected.', false);
        named(welcome[1]);
        attempts = 5;
        rename();
        look();
    } else if (history) {
        begin(history[1], Number(history[2]));
    } else if (anew) {
        begin(anew[1], Number(anew[2]) - 1);
    } else if (list && listing > 0) {
        listing -= 1;
        people(Number(list[1]), list[2].split('; ')[0].split(', '));
    } else if (attempts > 0 && text === `${wanted} is taken; choose another name.`) {
        setTimeout(rename, 3000);
    } else if (!/^(Everybody sees what|\/who lists)/.test(text)) {
        if (renamed?.[1] === own) {
            keep(renamed[2]);
            named(renamed[2]);
        } else if (renamed?.[1].endsWith(`: ${own}`)) {
            named(renamed[2]);
        }
        hasLeft ||= text === 'Goodbye.';
        show(text, 'notice');
        if (!list) look();
    }
}

/** Takes the name of before. Servers know it a few seconds longer than the connection lasts. */
function rename() {
    if (wanted && wanted !== own && attempts > 0) {
        attempts -= 1;
        send(`/nick ${wanted}`);
    }
}

function keep(name) {
    [wanted, attempts] = [name, 0];
    sessionStorage.setItem('name', name);
}

/** The server's history, of which the page may have a part. */
function begin(theirs, number) {
    if (epoch !== undefined && epoch !== theirs) {
        show('The lines begin anew.', 'gap');
        last = undefined;
        shown.clear();
    }
    epoch = theirs;
    // A new history begins with its first line.
    if (last === undefined && number === 0) last = 0;
}

function missing(from, to) {
    if (last !== undefined && to > last && from <= last + 1) {
        show(`Lines ${last + 1} to ${to} are missing.`, 'gap');
        last = to;
    }
}

function named(name) {
    own = name;
    if (document.activeElement !== one('name')) one('name').value = name;
}

function show(line, kind) {
    const lines = one('lines');
    const isBelow = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    const item = document.createElement('li');
    const said = kind === 'notice' || kind === 'gap' ? null : /^<([\w-]+)> (.*)$/s.exec(line);
    if (said) {
        const who = document.createElement('span');
        who.className = 'who';
        who.textContent = said[1];
        item.append(who, ` ${said[2]}`);
        item.classList.toggle('mine', said[1] === own);
    } else {
        item.textContent = line;
    }
    if (kind) item.classList.add(kind);
    lines.append(item);
    if (lines.childElementCount > MOST) lines.firstElementChild.remove();
    if (isBelow) lines.scrollTop = lines.scrollHeight;
    else one('newer').hidden = false;
}

let looking;

/** Asks who is here, a little later: changes come together. */
function look() {
    clearTimeout(looking);
    looking = setTimeout(() => {
        if (send('/who')) listing += 1;
    }, 500);
}

function people(count, names) {
    one('count').textContent = count ? `(${count})` : '';
    one('people').replaceChildren(...names.map((name) => {
        const item = document.createElement('li');
        item.textContent = name;
        item.classList.toggle('you', name.endsWith(' (you)'));
        return item;
    }));
}

one('saying').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = one('text').value;
    const isLong = new TextEncoder().encode(text).length > LONGEST;
    one('text').setCustomValidity(isLong ? `At most ${LONGEST} bytes.` : '');
    if (isLong) one('text').reportValidity();
    else if (text.trim() && send(text)) one('text').value = '';
});
one('text').addEventListener('input', () => one('text').setCustomValidity(''));
one('naming').addEventListener('submit', (event) => {
    event.preventDefault();
    if (one('name').value !== own) send(`/nick ${one('name').value}`);
    one('text').focus();
});
one('newer').addEventListener('click', () => { one('lines').scrollTop = one('lines').scrollHeight; });
one('lines').addEventListener('scroll', () => {
    const lines = one('lines');
    if (lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40) one('newer').hidden = true;
});
addEventListener('online', () => { if (socket.readyState === WebSocket.CLOSED && !hasLeft) connect(); });
connect();
