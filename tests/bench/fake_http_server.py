"""A server that streams scripted answers: `python fake_http_server.py [MODE]`. It prints its URL and nothing else.

MODE `good` answers each request with as many words as tokens were asked for, a few milliseconds apart; `refuse` says
503; `break` closes in the middle of an answer; `die` ends at once. One process, one thread per connection.
"""

import json
import socketserver
import sys
import time

WORD_SECONDS = 0.004


class Handler(socketserver.StreamRequestHandler):
    mode = "good"

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        if head.startswith(b"GET /v1/models"):
            return self.whole(b"200 OK", {"data": [{"id": "fake"}]})
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        body = json.loads(self.rfile.read(length))
        if self.mode == "refuse":
            return self.whole(b"503 Service Unavailable", {"error": {"message": "not today"}})
        return self.stream(body)

    def whole(self, status, document):
        payload = json.dumps(document).encode()
        self.wfile.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(payload)))
        self.wfile.write(payload)

    def stream(self, body):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for number in range(body["max_tokens"]):
            time.sleep(WORD_SECONDS)
            self.event({"choices": [{"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}]})
            if self.mode == "break" and number == 1:
                return
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        num_words = sum(len(message["content"].split()) for message in body["messages"])
        self.event({"choices": [], "usage": {"prompt_tokens": num_words, "completion_tokens": body["max_tokens"]}})
        self.chunk(b": ping\n\ndata: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, document):
        self.chunk(b"data: " + json.dumps(document).encode() + b"\n\n")

    def chunk(self, payload):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else "good"
    if mode == "die":
        sys.exit("no luck today")
    Handler.mode = mode
    with Server(("127.0.0.1", 0), Handler) as server:
        sys.stderr.write(f"listening on http://127.0.0.1:{server.server_address[1]}/v1\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
