// node as a server; the argument is its role.

const role = process.argv[1];
const members = new Set();
const hello = Buffer.from("Hello, World!");

function answer(request, response) {
  response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": hello.length });
  response.end(hello);
}

function echo(socket) {
  socket.setNoDelay(true);
  socket.on("error", () => socket.destroy());
  if (role === "echo-one") {
    socket.on("data", (data) => socket.end(data));
  } else if (role === "fan-out") {
    members.add(socket);
    socket.on("close", () => members.delete(socket));
    socket.on("data", (data) => members.forEach((member) => member.write(data)));
  } else {
    socket.pipe(socket);
  }
}

let server;
if (role === "hello-1") {
  server = require("http").createServer({ noDelay: true, keepAliveTimeout: 300000 }, answer);
} else if (role === "hello-2") {
  server = require("http2").createServer(answer);
} else {
  server = require("net").createServer(echo);
}
server.listen(0, "127.0.0.1", 1024, () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
