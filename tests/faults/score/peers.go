package score

import (
	"slices"
	"strings"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// column is one party of one product.
type column struct {
	title string
	rows  []Row
	who   scenario.Party
}

// peers stands the products beside each other in the scenarios that the others were put
// through. A party that never has a record has no column.
func (p Page) peers(w *writer) {
	if len(p.Peers) == 0 {
		return
	}
	w.line("\n## The same faults elsewhere\n")
	w.line("Other products were put through those scenarios that are about a session between a client and a host and")
	w.line("nothing else (`make faults-peers`), as packaged, with keepalives set to Fairlead's limit. Their *agent* is")
	w.line("their service on the host, of which all processes are killed or stopped when an agent is. Rules in")
	w.line("tests/faults/peers read their records; where words can be understood in several ways the true one counts,")
	w.line("so that *right* is generous to them, and *strict* says what a reader could know. They have to tell of the")
	w.line("session only, Fairlead of its control links too. A dash: rightly nothing.\n")
	var columns []column
	for _, r := range append([]Result{p.Ours}, p.Peers...) {
		for _, who := range []scenario.Party{scenario.Client, scenario.Agent} {
			if slices.ContainsFunc(r.Rows, func(row Row) bool { return len(row.Cells[who].Said) > 0 }) {
				columns = append(columns, column{r.Product + " " + string(who), r.Rows, who})
			}
		}
	}
	titles := []string{"scenario", "true"}
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	w.line("| %s |", strings.Join(titles, " | "))
	w.line("|%s", strings.Repeat("---|", len(titles)))
	right, strict, of := make([]int, len(columns)), make([]int, len(columns)), make([]int, len(columns))
	for _, row := range p.Peers[0].Rows {
		words := []string{row.Name, row.truth()}
		for i, c := range columns {
			cell := Cell{Mark: Unrun}
			if at := slices.IndexFunc(c.rows, func(r Row) bool { return r.Name == row.Name }); at >= 0 {
				cell = c.rows[at].Cells[c.who]
			}
			words = append(words, cell.brief())
			of[i] += one(len(cell.Must) > 0 && cell.Mark != Quiet)
			right[i] += one(cell.Mark == Right)
			strict[i] += one(cell.Strict)
		}
		w.line("| %s |", strings.Join(words, " | "))
	}
	sums, known := []string{"**right**", ""}, []string{"**strict**", ""}
	for i := range columns {
		sums = append(sums, share(right[i], max(1, of[i])))
		known = append(known, share(strict[i], max(1, of[i])))
	}
	w.line("| %s |", strings.Join(sums, " | "))
	w.line("| %s |", strings.Join(known, " | "))
}

// brief is the mark alone.
func (c Cell) brief() string {
	switch {
	case c.Mark == Quiet:
		return "-"
	case c.Mark == Right && !c.Strict:
		return "right, not strict"
	}
	return string(c.Mark)
}
