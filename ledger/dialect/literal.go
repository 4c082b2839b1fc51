package dialect

import "bytes"

const upperHex = "0123456789ABCDEF"

// appendHex appends x'..', which every dialect reads as a binary string and which
// needs no escaping.
func appendHex(b, p []byte) []byte {
	b = append(b, 'x', '\'')
	for _, c := range p {
		b = append(b, upperHex[c>>4], upperHex[c&15])
	}
	return append(b, '\'')
}

// appendMySQLString appends a text literal for a server in the sql_mode that every
// connection is set to (backslash escapes on) and the charset utf8mb4, in which no
// byte of a longer character is a quote or a backslash.
func appendMySQLString(b []byte, s string) []byte {
	b = append(b, '\'')
	return append(appendMySQLEscaped(b, s), '\'')
}

// appendMySQLBinary appends a binary literal byte for byte: half as long as hex.
func appendMySQLBinary(b []byte, p []byte) []byte {
	b = append(b, "_binary'"...)
	return append(appendMySQLLongEscaped(b, p), '\'')
}

// appendMySQLLongEscaped is appendMySQLEscaped for what is long and almost never holds
// anything to escape: six searches at the machine's width cost less than one look at
// every byte.
func appendMySQLLongEscaped(b, s []byte) []byte {
	for _, special := range [...]byte{'\'', '\\', 0, '\n', '\r', 0x1a} {
		if bytes.IndexByte(s, special) >= 0 {
			return appendMySQLEscaped(b, s)
		}
	}
	return append(b, s...)
}

func appendMySQLEscaped[T string | []byte](b []byte, s T) []byte {
	from := 0
	for i := range len(s) {
		var esc byte
		switch s[i] {
		case '\'', '\\':
			esc = s[i]
		case 0:
			esc = '0'
		case '\n':
			esc = 'n'
		case '\r':
			esc = 'r'
		case 0x1a:
			esc = 'Z'
		default:
			continue
		}
		b = append(b, s[from:i]...)
		b = append(b, '\\', esc)
		from = i + 1
	}
	return append(b, s[from:]...)
}

// appendSQLiteString appends a text literal, in which only the quote is special. A
// NUL would end the statement, so a text that holds one is written as hex.
func appendSQLiteString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] == 0 {
			b = append(b, "CAST("...)
			b = appendHex(b, []byte(s))
			return append(b, " AS TEXT)"...)
		}
	}
	b = append(b, '\'')
	for i := range len(s) {
		if s[i] == '\'' {
			b = append(b, '\'')
		}
		b = append(b, s[i])
	}
	return append(b, '\'')
}
