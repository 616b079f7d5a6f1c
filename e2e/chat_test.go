package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/foyerws/foyer/e2e/line"
)

// TestChat has three people talk in the chat example, on one node and on a node for each. One of them is offline for ten
// seconds, and comes back to what was said meanwhile. FOYER_SCREENSHOTS is a folder for pictures.
func TestChat(t *testing.T) {
	program(t, "chromium")
	for nodes, name := range map[int]string{1: "one node", 3: "three nodes"} {
		t.Run(name, func(t *testing.T) { chat(t, nodes) })
	}
}

func chat(t *testing.T, nodes int) {
	example := startExample(t, "chat", "-addr", "127.0.0.1:0", "-nodes", strconv.Itoa(nodes))
	var pages []string
	for range nodes {
		_, url, _ := strings.Cut(example.wait(t, "listening on "), "listening on ")
		pages = append(pages, url+"/")
	}
	wire, err := line.New(strings.Trim(pages[2%nodes], "htp:/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	people := map[string]context.Context{}
	for name, url := range map[string]string{"alice": pages[0], "bob": pages[1%nodes], "carol": "http://" + wire.Addr().String() + "/"} {
		people[name] = browse(t, url+"?name="+name)
		until(t, people[name], `document.getElementById("state").textContent === "in lobby"`)
	}
	say := func(who, text string) {
		do(t, people[who], chromedp.SendKeys("#text", text+"\n"))
	}
	// The log of a page: what was said, without the times.
	lines := func(who string) (all []string) {
		text, err := chromedp.Run(people[who], chromedp.Evaluate[string](`JSON.stringify([...document.querySelectorAll("#log li:not(.note)")].map(li => li.childNodes[1].data))`))
		if err != nil || json.Unmarshal([]byte(text), &all) != nil {
			t.Fatal(text, err)
		}
		return all
	}
	heard := func(n int, who ...string) {
		t.Helper()
		for _, name := range who {
			until(t, people[name], fmt.Sprintf(`document.querySelectorAll("#log li:not(.note)").length === %d`, n))
		}
	}
	for name := range people {
		until(t, people[name], `document.querySelectorAll("#people li").length === 3`)
	}

	say("alice", "hello")
	say("bob", "hi <b>alice</b>")
	heard(2, "alice", "bob", "carol")
	if got := lines("carol"); fmt.Sprint(got) != fmt.Sprint([]string{"hello", "hi <b>alice</b>"}) {
		t.Errorf("%q", got)
	}
	do(t, people["bob"], chromedp.SendKeys("#text", "I am"))
	until(t, people["alice"], `document.getElementById("typing").textContent === "bob is typing…"`)
	until(t, people["alice"], `document.getElementById("typing").textContent === ""`)

	wire.Pull(true)
	until(t, people["carol"], `document.getElementById("state").className === "off"`)
	until(t, people["alice"], `document.querySelectorAll("#people li").length === 2`)
	for i := range 10 {
		say("alice", fmt.Sprint("message ", i))
		time.Sleep(time.Second)
	}
	wire.Pull(false)
	heard(12, "alice", "carol")
	until(t, people["carol"], `document.getElementById("log").textContent.includes("Nothing was lost.")`)
	want := lines("alice")
	if got := lines("carol"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("carol has %q, alice has %q", got, want)
	}

	do(t, people["bob"], chromedp.SendKeys("#room", "attic\n")) // bob's "I am" is still in the box
	until(t, people["bob"], `document.getElementById("state").textContent === "in attic"`)
	say("alice", "bob?")
	until(t, people["bob"], `document.querySelector(".unread")?.textContent === "1" && document.title === "(1) Chat"`)

	var counts []struct {
		Room          string
		Members, Keys int
	}
	resp, err := http.Get(pages[1%nodes] + "admin/rooms") // bob is in both rooms
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&counts); len(counts) != 2 || counts[0].Room != "attic" || counts[1].Keys != 3 || counts[1].Members != 3 {
		t.Errorf("%+v", counts)
	}
	if dir := os.Getenv("FOYER_SCREENSHOTS"); dir != "" {
		for file, who := range map[string]string{"chat.png": "carol", "chat-unread.png": "bob"} {
			picture, err := chromedp.Run(people[who], chromedp.CaptureScreenshot())
			if err != nil || os.WriteFile(dir+"/"+file, picture, 0o644) != nil {
				t.Error(err)
			}
		}
	}
}
