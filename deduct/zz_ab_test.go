package deduct

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"flashgate/internal/testenv"
)

func TestAB(t *testing.T) {
	dir := os.Getenv("AB")
	if dir == "" {
		t.Skip()
	}
	server := testenv.Redis(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer c.Close()
	ctx := context.Background()
	files, _ := filepath.Glob(dir + "/*.lua")
	type variant struct {
		name  string
		limit int64
		left  string
		sha   string
	}
	var vs []variant
	for _, f := range files {
		src, _ := os.ReadFile(f)
		sha := c.ScriptLoad(ctx, string(src)).Val()
		for _, lim := range []int64{0, 2} {
			for _, left := range []string{"1000000000000", "0"} {
				vs = append(vs, variant{filepath.Base(f), lim, left, sha})
			}
		}
	}
	for _, size := range []int{2, 150} {
		res := make([][]float64, len(vs))
		for round := 0; round < 40; round++ {
			for vi, v := range vs {
				if round%20 == 0 {
					c.Del(ctx, fmt.Sprintf("fg:{shoe:0}:v%d:h", vi))
					c.HSet(ctx, fmt.Sprintf("fg:{shoe:0}:v%d:h", vi), "m", "1", "l", v.left)
				}
				g := generation{name: fmt.Sprintf("v%d", vi), limit: v.limit}
				c.ConfigResetStat(ctx)
				n := 0
				for n < 4000 {
					p := c.Pipeline()
					for k := 0; k < 600/size; k++ {
						cs := randomClaims(size)
						tok := newToken()
						r := &request{token: tok, claims: cs, blob: string(appendBatch(nil, cs))}
						p.Process(ctx, redis.NewCmd(ctx, r.args(v.sha, "fg:{shoe:0}:", g, 0, false)...))
						p.HDel(ctx, batchesKey("fg:{shoe:0}:", g.name), tokenBytes(tok))
						n += size
					}
					rr, err := p.Exec(ctx)
					if err != nil {
						t.Fatal(rr[0], err)
					}
				}
				info := c.Info(ctx, "commandstats").Val()
				for line := range strings.SplitSeq(info, "\r\n") {
					var calls, usec float64
					if k, _ := fmt.Sscanf(line, "cmdstat_evalsha:calls=%f,usec=%f", &calls, &usec); k == 2 {
						res[vi] = append(res[vi], usec/float64(n))
					}
				}
			}
		}
		for vi, v := range vs {
			sort.Float64s(res[vi])
			fmt.Printf("size=%d %-12s limit=%d left=%s: min %.3f q25 %.3f med %.3f us/claim\n", size, v.name, v.limit, v.left[:1], res[vi][0], res[vi][10], res[vi][20])
		}
	}
}
