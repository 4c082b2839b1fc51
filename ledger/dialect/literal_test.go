package dialect

import (
	"context"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func seedLiterals(f *testing.F) {
	for _, s := range []string{"", "user-1", "o'neil", `back\slash`, `\'`, "'; DROP TABLE orders; --", "\x00\x1a\r\n", "\xff\xfe'", "日本語", "%_", `"`} {
		f.Add([]byte(s))
	}
}

// readMySQLLiteral reads a quoted literal as the server's lexer does, and reports how
// much of the input belongs to it.
func readMySQLLiteral(b []byte) (value []byte, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '\'' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\'':
			if i+1 < len(b) && b[i+1] == '\'' {
				value = append(value, '\'')
				i++
				continue
			}
			return value, b[i+1:], true
		case '\\':
			i++
			if i == len(b) {
				return nil, nil, false
			}
			switch b[i] {
			case '0':
				value = append(value, 0)
			case 'n':
				value = append(value, '\n')
			case 'r':
				value = append(value, '\r')
			case 'Z':
				value = append(value, 0x1a)
			default:
				value = append(value, b[i])
			}
		default:
			value = append(value, b[i])
		}
	}
	return nil, nil, false
}

func FuzzMySQLLiterals(f *testing.F) {
	seedLiterals(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		text := appendMySQLString(nil, string(p))
		got, rest, ok := readMySQLLiteral(text)
		if !ok || len(rest) != 0 || string(got) != string(p) {
			t.Fatalf("%q is written as %q and read as %q, %q left", p, text, got, rest)
		}
		const prefix = "_binary"
		text = appendMySQLBinary(nil, p)
		got, rest, ok = readMySQLLiteral(text[len(prefix):])
		if !ok || len(rest) != 0 || string(got) != string(p) {
			t.Fatalf("%q is written as %q and read as %q, %q left", p, text, got, rest)
		}
	})
}

func FuzzSQLiteLiterals(f *testing.F) {
	seedLiterals(f)
	db, err := sqliteDialect{}.Open(f.TempDir()+"/x.db", time.Second)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	f.Fuzz(func(t *testing.T, p []byte) {
		q := append([]byte("SELECT CAST("), appendSQLiteString(nil, string(p))...)
		q = append(append(append(q, " AS BLOB), "...), appendHex(nil, p)...), " /* the end */"...)
		var text, blob []byte
		if err := db.QueryRowContext(context.Background(), string(q)).Scan(&text, &blob); err != nil {
			t.Fatalf("%q: %v", q, err)
		}
		if string(text) != string(p) || string(blob) != string(p) {
			t.Fatalf("%q came back as %q and %q", p, text, blob)
		}
	})
}

// TestLiteralsOnServer lets the server itself read every byte.
func TestLiteralsOnServer(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real server; run without -short")
	}
	db, err := mysqlDialect{}.Open(testenv.MariaDB(t).DSN, testenv.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	all := make([]byte, 0, 1024)
	for hi := range 4 {
		for lo := range 256 {
			all = append(all, []byte{0, '\'', '\\', 0xe4}[hi], byte(lo))
		}
	}
	d := mysqlDialect{}
	q := append([]byte("SELECT "), d.AppendBytes(nil, all)...)
	q = append(append(q, ", "...), d.AppendBytes(nil, all[:16])...)
	q = append(append(q, ", "...), d.AppendString(nil, "it's a \\ \n\r\x00\x1a \" 日本")...)
	var long, short, text []byte
	if err := db.QueryRowContext(t.Context(), string(q)).Scan(&long, &short, &text); err != nil {
		t.Fatal(err)
	}
	if string(long) != string(all) || string(short) != string(all[:16]) || string(text) != "it's a \\ \n\r\x00\x1a \" 日本" {
		t.Fatalf("%q, %q, %q", long, short, text)
	}
}
